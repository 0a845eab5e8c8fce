package launch

import (
	"fmt"
	"strings"
)

// Refused tells of a connection, or the lookup of a name, that policy refused a sandbox: what
// is written as "tcp connection to 10.1.2.3:5432", and rule is what to allow to open
// it, or "" if nothing can. It becomes a line in the log of the function, under the
// call that the sandbox has, and counts. It does not wait.
func (l *Launcher) Refused(id, what, rule string) {
	p := l.withID(id)
	if p == nil {
		return // it has ended
	}
	opens := ""
	if rule != "" {
		opens = fmt.Sprintf("hob update %s --allow %s", p.name, Quote(rule))
	}
	l.RefusedOf(p.function, callOf(p.call.Load()), what, opens)
}

// RefusedOf is Refused for a connection of the node itself on behalf of the function with
// this ID, for one of its calls. opens is the command that opens it; "": none does.
func (l *Launcher) RefusedOf(function, call, what, opens string) {
	l.mu.Lock()
	if l.refused == nil {
		l.refused = make(map[string]int)
	}
	l.refused[function]++
	l.mu.Unlock()
	line := "refused: " + what + "; this address cannot be opened"
	if opens != "" {
		line = fmt.Sprintf("refused: %s; this opens it: %s", what, opens)
	}
	w := l.Logs.Writer(function, call, "hob")
	fmt.Fprintln(w, line) // what the log cannot keep, it counts itself
	w.Close()
}

// Quote returns a rule as a shell takes it: a "*" or a "[" would mean files to it.
func Quote(rule string) string {
	if strings.ContainsAny(rule, "*[") {
		return "'" + rule + "'"
	}
	return rule
}

// withID returns the process of a sandbox that lives; nil: there is none.
func (l *Launcher) withID(id string) *process {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p := range l.live {
		if p.info.ID == id {
			return p
		}
	}
	return nil
}

// Refusals returns how many connections of a function policy has refused, as far as
// they were told (ten a second of a sandbox).
func (l *Launcher) Refusals(function string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[function]
}
