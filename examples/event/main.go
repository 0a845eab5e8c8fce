// Command event serves many calls from one container, each as a CloudEvent on
// standard input, answered by one on standard output.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"
)

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var event map[string]any
		if err := in.Decode(&event); err == io.EOF {
			return // no more calls
		} else if err != nil {
			log.Fatalln("event:", err)
		}
		event["eventType"] = "example.counted"
		event["contentType"] = "application/json"
		event["data"] = map[string]any{"said": event["data"], "id": event["eventID"]}
		if err := out.Encode(event); err != nil {
			log.Fatalln("event:", err)
		}
	}
}
