module example/fn-cli

go 1.24
