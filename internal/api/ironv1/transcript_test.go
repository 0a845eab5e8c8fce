package ironv1_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// Words of an answer that differ from run to run.
var (
	idWord   = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`)
	timeWord = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
)

// TestRequestsOfTheCommandLineOfIronFunctions sends what the client sends, byte for
// byte, and compares the answers whole. With UPDATE=1 the answers are written down.
func TestRequestsOfTheCommandLineOfIronFunctions(t *testing.T) {
	const name = "testdata/ironfunctions-cli.txtar"
	script, err := txtar.ParseFile(name)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(newNode(t).handler)
	defer server.Close()
	names := make(map[string]string) // of IDs, in the order in which they come
	masked := func(s string) string {
		return timeWord.ReplaceAllString(idWord.ReplaceAllStringFunc(s, func(id string) string {
			if names[id] == "" {
				names[id] = fmt.Sprintf("ID-%d", len(names)+1)
			}
			return names[id]
		}), "TIME")
	}
	for i, file := range script.Files {
		body, want, _ := strings.Cut("\n"+string(file.Data), "\n<<<\n")
		body = strings.TrimPrefix(body, "\n")
		got := masked(exchange(t, server, file.Name, body))
		script.Files[i].Data = []byte(body + "\n<<<\n" + got)
		if body == "" {
			script.Files[i].Data = []byte("<<<\n" + got)
		}
		if got != want && os.Getenv("UPDATE") == "" {
			t.Errorf("%s\n%s\ngot\n%s\nwant\n%s", file.Name, body, got, want)
		}
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(name, txtar.Format(script), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// exchange sends a request as the client does and returns the answer.
func exchange(t *testing.T, server *httptest.Server, line, body string) string {
	t.Helper()
	method, target, _ := strings.Cut(line, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	if method != http.MethodGet {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s\nContent-Type: %s\n\n%s", resp.Status, resp.Header.Get("Content-Type"), answer)
}
