// Command lambda-go is a function made for AWS Lambda with Amazon's own package. There
// is nothing of hob in it.
package main

import (
	"context"
	"errors"

	"github.com/aws/aws-lambda-go/lambda"
)

type question struct {
	Name string `json:"name"`
}

type answer struct {
	Message string `json:"message"`
}

func greet(_ context.Context, q question) (*answer, error) {
	if q.Name == "" {
		return nil, errors.New("who are you?")
	}
	return &answer{"Hello " + q.Name + "!"}, nil
}

func main() { lambda.Start(greet) }
