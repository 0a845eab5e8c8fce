module example/hot

go 1.24
