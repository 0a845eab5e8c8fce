// Command bootstrap is a custom runtime of AWS Lambda, in as few words as it takes:
// it asks the Runtime API for events and answers each with what it found.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	api := "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/invocation/"
	greeting, err := os.ReadFile(os.Getenv("LAMBDA_TASK_ROOT") + "/data/greeting")
	if err != nil {
		log.Fatal(err)
	}
	for calls := 1; ; calls++ {
		next, err := http.Get(api + "next")
		if err != nil {
			log.Fatal(err)
		}
		event, err := io.ReadAll(next.Body)
		if err != nil {
			log.Fatal(err)
		}
		answer, err := json.Marshal(map[string]any{
			"greeting": string(greeting), "event": json.RawMessage(event), "handler": os.Getenv("_HANDLER"), "level": os.Getenv("LEVEL"), "calls": calls, "args": len(os.Args),
		})
		if err != nil {
			log.Fatal(err)
		}
		done, err := http.Post(api+next.Header.Get("Lambda-Runtime-Aws-Request-Id")+"/response", "application/json", bytes.NewReader(answer))
		if err != nil || done.StatusCode != http.StatusAccepted {
			log.Fatal(done, err)
		}
		done.Body.Close()
	}
}
