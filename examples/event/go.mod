module example/event

go 1.24
