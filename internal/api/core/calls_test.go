package core_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hob/internal/logs"
)

func TestLinesAreGoneAfterTheirAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		var err error
		if s.Logs, err = logs.Open(logs.Config{Dir: t.TempDir(), MaxAge: 24 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		s.Caller = &functions{logs: s.Logs}
		h := s.Handler()
		create(t, h, "upper")
		id := ask(h, "POST", functionsPath+"upper/call", "x").Header().Get("Hob-Call")
		fn, err := s.Catalog.Function("default", "upper")
		if err != nil {
			t.Fatal(err)
		}
		line := s.Logs.Writer(fn.ID, id, "stderr")
		io.WriteString(line, "only for a day\n")
		line.Close()
		for _, path := range []string{"logs", "logs?call=" + id, "logs?tail=1"} {
			time.Sleep(7 * time.Hour) // of the bubble's clock
			if w := ask(h, "GET", functionsPath+"upper/"+path, ""); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "only for a day") {
				t.Errorf("%s within a day: %d %s", path, w.Code, w.Body)
			}
		}
		time.Sleep(4 * time.Hour)
		for _, path := range []string{"logs", "logs?call=" + id, "logs?tail=1"} {
			if w := ask(h, "GET", functionsPath+"upper/"+path, ""); w.Code != http.StatusOK || w.Body.Len() > 0 {
				t.Errorf("%s after a day: %d %s", path, w.Code, w.Body)
			}
		}
		s.Logs.Close()
	})
}
