package logs_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"hob/internal/logs"
)

func TestLinesOfFunctionsAreInTheLogOfTheDaemonIfThatIsWanted(t *testing.T) {
	for _, wanted := range []bool{true, false} {
		var out bytes.Buffer
		s, stop := start(t, logs.Config{Dir: t.TempDir(), Log: logTo(&out), Echo: wanted, Syslog: func(id string) logs.Source {
			return logs.Source{App: "myapp", Image: "iron/hello", Path: "/hello", Func: id}
		}})
		write(t, s, "f", "c1", "hello \"there\"\nand more\n")
		stop()
		for _, line := range []string{`"hello \"there\""`, `"and more"`} {
			want := "level=INFO msg=" + line + " user_log=true app_name=myapp path=/hello image=iron/hello call_id=c1 fn_id=f\n"
			if strings.Contains(out.String(), want) != wanted {
				t.Errorf("wanted %t, and the log is\n%s", wanted, out.String())
			}
		}
	}
}

// stuck takes nothing until open is closed.
type stuck struct {
	open chan struct{}
	to   io.Writer
}

func (s stuck) Write(p []byte) (int, error) {
	<-s.open
	return s.to.Write(p)
}

func TestFloodWaitsForNoLogOfTheDaemonAndIsCutWithACount(t *testing.T) {
	var out bytes.Buffer
	log := stuck{make(chan struct{}), &out}
	s, stop := start(t, logs.Config{Dir: t.TempDir(), Log: logTo(log), Echo: true, Syslog: func(string) logs.Source { return logs.Source{App: "myapp"} }})
	const n = 40
	for i := range n {
		write(t, s, "f", "c", fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", 60_000)))
		onDisk(t, s)
	}
	close(log.open)
	stop()
	told := 0
	for line := range strings.Lines(out.String()) {
		if _, count, ok := strings.Cut(line, " lines="); ok {
			var lost int
			if _, err := fmt.Sscan(count, &lost); err != nil || lost == 0 {
				t.Errorf("%s: %v", line, err)
			}
			told += lost
		} else {
			told++
		}
	}
	if told != n || len(linesOf(t, s, "c")) != n {
		t.Errorf("%d lines are told of, and %d are in the function's own log; want %d", told, len(linesOf(t, s, "c")), n)
	}
	if !strings.Contains(out.String(), "lines of functions are missing in this log") {
		t.Error("nothing was cut")
	}
}
