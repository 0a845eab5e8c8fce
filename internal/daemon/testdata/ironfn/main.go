// Ironfn is the function of the tests of routes: one program for the formats default,
// http, json and cloudevent. The body of a call says what it does.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

var served int // calls of this container

func main() {
	var err error
	switch os.Getenv("FN_FORMAT") {
	case "http":
		err = serveHTTP()
	case "json":
		err = serveJSON()
	case "cloudevent":
		err = serveEvents()
	default:
		body, err := io.ReadAll(os.Stdin)
		if err != nil {
			fail(err)
		}
		out, _, _ := act(string(body), nil)
		fmt.Print(out)
		return
	}
	if err != nil && err != io.EOF {
		fail(err)
	}
}

// act does what body says. told is what else the call brings, a line each; nil: it is
// in the environment.
func act(body string, told []string) (out string, status int, header map[string][]string) {
	served++
	verb, arg, _ := strings.Cut(body, " ")
	number, rest, _ := strings.Cut(arg, " ")
	n, _ := strconv.Atoi(number)
	switch verb {
	case "count":
		return strconv.Itoa(served), 200, nil
	case "env": // the variables, or what a hot call brings
		all := told
		if told == nil || arg == "process" {
			all = os.Environ()
		}
		slices.Sort(all)
		return strings.Join(all, "\n"), 200, nil
	case "status":
		return rest, n, map[string][]string{"X-Function": {"one", "two"}, "Content-Type": {"text/x-test"}}
	case "json":
		return `{"a":1}`, 200, nil
	case "big":
		return strings.Repeat("x", n), 200, nil
	case "sleep":
		time.Sleep(time.Duration(n) * time.Millisecond)
		return "slept", 200, nil
	case "hoard":
		var all [][]byte
		for range n {
			all = append(all, []byte(strings.Repeat("x", 1<<20)))
		}
		return strconv.Itoa(len(all)), 200, nil
	case "write":
		if err := os.WriteFile(number, []byte(rest), 0o600); err != nil {
			return err.Error(), 200, nil
		}
		return "written as " + strconv.Itoa(os.Getuid()), 200, nil
	case "log":
		fmt.Fprintln(os.Stderr, arg)
		return "logged", 200, nil
	case "exit":
		fmt.Fprint(os.Stderr, rest)
		os.Exit(n)
	case "garbage":
		fmt.Println("this is no answer")
		os.Stdout.Close()
		time.Sleep(time.Hour)
	}
	return "got " + body, 200, nil
}

func serveHTTP() error {
	in := bufio.NewReader(os.Stdin)
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return err
		}
		told := []string{"request=" + req.Method + " " + req.RequestURI}
		for name, values := range req.Header {
			told = append(told, name+"="+strings.Join(values, "|"))
		}
		out, status, header := act(string(body), told)
		resp := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: io.NopCloser(strings.NewReader(out)), ContentLength: int64(len(out))}
		if err := resp.Write(os.Stdout); err != nil {
			return err
		}
	}
}

func serveJSON() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var req struct {
			Body     string         `json:"body"`
			Protocol map[string]any `json:"protocol"`
		}
		if err := in.Decode(&req); err != nil {
			return err
		}
		told := []string{}
		for name, value := range req.Protocol {
			told = append(told, fmt.Sprintf("%s=%v", name, value))
		}
		text, status, header := act(req.Body, told)
		answer := map[string]any{"body": text, "protocol": map[string]any{"status_code": status, "headers": header}}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
}

func serveEvents() error {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var event map[string]any
		if err := in.Decode(&event); err != nil {
			return err
		}
		body, _ := event["data"].(string)
		text, status, header := act(body, []string{fmt.Sprint(event["eventType"], " ", event["eventID"])})
		event["data"], event["contentType"] = text, "text/plain"
		event["extensions"] = map[string]any{"protocol": map[string]any{"status_code": status, "headers": header}}
		if err := out.Encode(event); err != nil {
			return err
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
