from supervisor_hotreload.forks.gunicorn import install

bind = "127.0.0.1:8000"

install(globals(), honour_winch=True)
