module fab-session-injector/tests/node/box

go 1.26.0
