package fnv2_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// varies are the words of an answer that differ from run to run: IDs and times.
var varies = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b|\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)

// TestAnswersAreThoseOfTheReference replays what a Fn server was asked and compares
// the answers whole: status, header, body. What varies must vary together: an ID
// or a time that comes again in the transcript comes again here.
func TestAnswersAreThoseOfTheReference(t *testing.T) {
	script, err := txtar.ParseFile("testdata/fn-server-api.txtar")
	if err != nil || len(script.Files) < 40 {
		t.Fatalf("%d exchanges, %v", len(script.Files), err)
	}
	n := newNode(t)
	n.NoInvoke, n.CallsGone = true, true
	server := httptest.NewServer(n.handler)
	defer server.Close()
	ours := make(map[string]string) // by the word of the transcript
	replace := func(s string) string {
		return varies.ReplaceAllStringFunc(s, func(word string) string {
			if real, ok := ours[word]; ok {
				return real
			}
			return word
		})
	}
	for _, file := range script.Files {
		body, want, ok := strings.Cut("\n"+string(file.Data), "\n<<<\n")
		if !ok {
			t.Fatalf("%s has no answer", file.Name)
		}
		want, reference, differs := strings.Cut(want, "<<< reference: ")
		if _, reference, _ := strings.Cut(reference, "\n"); differs && reference == want {
			t.Errorf("%s: marked as a difference, and none", file.Name)
		}
		got := exchange(t, server, replace(file.Name), replace(strings.TrimPrefix(body, "\n")))
		words := varies.FindAllString(got, -1)
		for i, word := range varies.FindAllString(want, -1) {
			if _, known := ours[word]; !known && i < len(words) {
				ours[word] = words[i]
			}
		}
		if want := sorted(replace(want)); got != want {
			t.Errorf("%s\n%s\ngot\n%s\nwant\n%s", file.Name, body, got, want)
		}
	}
}

// exchange sends a request over TCP and returns the answer as it would be written,
// without the date.
func exchange(t *testing.T, server *httptest.Server, line, body string) string {
	t.Helper()
	method, target, _ := strings.Cut(line, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "127.0.0.1:8080"
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s\n", resp.Proto, resp.Status)
	resp.Header.Del("Date")
	for name, values := range resp.Header {
		for _, value := range values {
			fmt.Fprintf(&out, "%s: %s\n", name, value)
		}
	}
	if len(answer) > 0 {
		fmt.Fprintf(&out, "\n%s\n", strings.TrimSuffix(string(answer), "\n"))
	}
	return sorted(out.String())
}

// sorted is an answer with the lines of its header in order: the order in which a
// server writes them says nothing.
func sorted(answer string) string {
	head, body, _ := strings.Cut(answer, "\n\n")
	lines := strings.Split(strings.TrimSuffix(head, "\n"), "\n")
	slices.Sort(lines[1:])
	return strings.TrimSuffix(strings.Join(lines, "\n")+"\n\n"+body, "\n\n") + "\n"
}
