// Command lambdago is a function for AWS Lambda that does what its event says. Tests
// run it under the Runtime API of hob, as a plain process and in sandboxes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
	"github.com/aws/aws-lambda-go/lambdaurl"
)

func main() {
	switch os.Getenv("MODE") {
	case "url":
		lambdaurl.Start(http.HandlerFunc(serve))
	case "sigterm":
		lambda.StartWithOptions(handle, lambda.WithEnableSIGTERM())
	default:
		lambda.Start(handle)
	}
}

var calls int

type ask struct {
	Do    string
	Names []string
}

// told is what a function is told of its call.
type told struct {
	Call       int
	ID, ARN    string
	Trace      string
	Deadline   int64 // milliseconds
	Event      json.RawMessage
	Env        map[string]string
	WorkingDir string
}

type pictureError struct{}

func (pictureError) Error() string { return "no picture" }

func handle(ctx context.Context, event json.RawMessage) (any, error) {
	calls++
	var in ask
	json.Unmarshal(event, &in)
	switch in.Do {
	case "fail":
		return nil, pictureError{}
	case "panic":
		panic("boom")
	case "exit":
		os.Exit(3)
	case "wait":
		<-ctx.Done()
		return nil, ctx.Err()
	case "hang":
		select {}
	case "stream":
		return strings.NewReader("streamed"), nil
	case "break":
		return io.MultiReader(strings.NewReader("half"), broken{}), nil
	case "long":
		return strings.Repeat("x", 7<<20), nil
	}
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	t := told{Call: calls, ID: lc.AwsRequestID, ARN: lc.InvokedFunctionArn, Trace: os.Getenv("_X_AMZN_TRACE_ID"), Deadline: deadline.UnixMilli(), Event: event, Env: map[string]string{}}
	for _, name := range in.Names {
		t.Env[name] = os.Getenv(name)
	}
	t.WorkingDir, _ = os.Getwd()
	return t, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

// serve answers HTTP requests.
func serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	http.SetCookie(w, &http.Cookie{Name: "a", Value: "1"})
	w.Header().Set("X-Path", r.URL.RequestURI())
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s from %s", r.Method, body, r.RemoteAddr)
	if string(body) == "begin" { // and never end
		http.NewResponseController(w).Flush()
		select {}
	}
}
