"""The event listener ``hotreload-listener``: reloads that nobody has to ask for by hand.

``command`` is the manual and the start, ``loop`` what happens when; ``events``
are supervisord's, ``paths`` and ``memory`` what is watched beside them,
``program`` is when a program may be reloaded, ``state`` what outlives the
listener, ``notify`` whom it tells. It talks to supervisord by events and
XML-RPC alone.
"""
