"""What a reload is. Nothing here touches anything: no os, no time, no signal, no supervisor."""
