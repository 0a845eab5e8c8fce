package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hob/internal/testenv"
)

// TestFlowsAreAsTheySay types the commands of pages of docs/flows and compares what
// they print with what the page says; -update writes it there.
func TestFlowsAreAsTheySay(t *testing.T) {
	testenv.NeedTool(t, "curl")
	testenv.NeedTool(t, "jq")
	for page, examples := range map[string][]string{"fn": {"stream"}, "ironfunctions": {"hot"}} {
		t.Run(page, func(t *testing.T) {
			s := serve(t)
			for _, name := range examples {
				s.example(name)
			}
			s.flow(filepath.Join("../../docs/flows", page+".md"))
		})
	}
}

// flow types the commands of a page.
func (s *realServer) flow(file string) {
	s.t.Helper()
	const place = "127.0.0.1:8080"
	page, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	// Commands, and what stands between them, which is kept or was printed.
	var kept, commands []string
	kept, printed, inside := append(kept, ""), false, false
	for line := range strings.Lines(string(page)) {
		switch {
		case strings.HasPrefix(line, "```"):
			inside, printed = line == "```console\n", false
		case inside && strings.HasPrefix(line, "$ "):
			commands, kept, printed = append(commands, line[2:]), append(kept, ""), true
			continue
		case inside && printed && strings.HasPrefix(line, "> "): // the command goes on
			commands[len(commands)-1] += line[2:]
			continue
		case printed:
			continue
		}
		kept[len(kept)-1] += line
	}
	script := strings.Join(commands, "printf '\\1'\n")
	cmd := exec.Command("bash")
	cmd.Dir = s.t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(s.hob)+":"+os.Getenv("PATH"), "HOB_SERVER=http://"+s.addr, "HOME="+s.t.TempDir())
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(script, place, s.addr))
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	outputs := strings.Split(strings.NewReplacer("\r", "", s.addr, place).Replace(string(out)), "\x01")
	if len(outputs) != len(commands) || len(commands) < 20 {
		s.t.Fatalf("%d commands, %d outputs: %s", len(commands), len(outputs), out)
	}
	got := kept[0]
	for i, command := range commands {
		first, rest, _ := strings.Cut(command, "\n")
		got += "$ " + first + "\n"
		for line := range strings.Lines(rest) {
			got += "> " + line
		}
		if got += outputs[i]; !strings.HasSuffix(got, "\n") {
			got += "\n"
		}
		got += kept[i+1]
	}
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	if got, want := sameWords(got), sameWords(string(page)); got != want {
		s.t.Errorf("the page differs from what happens; -update rewrites it. It says now\n%s\nand said\n%s", got, want)
	}
}

// sameWords is text with a number in place of each ID, by its first appearance, and
// without times.
func sameWords(text string) string {
	numbers := make(map[string]int)
	text = regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`).ReplaceAllStringFunc(text, func(id string) string {
		if _, known := numbers[id]; !known {
			numbers[id] = len(numbers) + 1
		}
		return fmt.Sprint("ID-", numbers[id])
	})
	return regexp.MustCompile(`\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z|Date: .*`).ReplaceAllString(text, "TIME")
}
