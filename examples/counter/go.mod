module example/counter

go 1.24
