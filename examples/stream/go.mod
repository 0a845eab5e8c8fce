module example/stream

go 1.24
