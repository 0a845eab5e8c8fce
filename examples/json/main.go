// Command json serves many calls from one container, each as a JSON object on
// standard input, answered by one on standard output.
package main

import (
	"encoding/json"
	"io"
	"log"
	"os"
	"strings"
)

type call struct {
	ID       string `json:"call_id"`
	Deadline string `json:"deadline"`
	Body     string `json:"body"`
	Protocol struct {
		Method  string              `json:"method"`
		Headers map[string][]string `json:"headers"`
	} `json:"protocol"`
}

type answer struct {
	Body        string `json:"body"`
	ContentType string `json:"content_type"`
	Protocol    struct {
		Status int `json:"status_code"`
	} `json:"protocol"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c call
		if err := in.Decode(&c); err == io.EOF {
			return // no more calls
		} else if err != nil {
			log.Fatalln("json:", err)
		}
		a := answer{Body: strings.ToUpper(c.Body) + "\n", ContentType: "text/plain"}
		a.Protocol.Status = 200
		if c.Body == "" {
			a.Body, a.Protocol.Status = "say something\n", 400
		}
		if err := out.Encode(a); err != nil {
			log.Fatalln("json:", err)
		}
	}
}
