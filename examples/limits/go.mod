module example/limits

go 1.24
