module example/json

go 1.24
