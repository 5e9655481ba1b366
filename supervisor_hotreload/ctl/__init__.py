"""The parts of ``supervisorctl hotreload`` that controllerplugin puts together."""
