package launch

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Refused tells of a connection, or the lookup of a name, that policy refused a sandbox: what
// is written as "tcp connection to 10.1.2.3:5432", and rule is what to allow to open
// it; "": what says itself why nothing can. It becomes a line in the log of the function,
// under the call that the sandbox has or had last, and counts. It does not wait.
func (l *Launcher) Refused(id, what, rule string) {
	of, known := l.withID(id)
	if !known {
		return // it has ended long ago, or its function is no more
	}
	if rule != "" {
		what += fmt.Sprintf("; this opens it: hob update %s --allow %s", of.name, Quote(rule))
	}
	l.tellRefused(of.function, of.call, what)
}

// RefusedOf is Refused for a connection of the node itself on behalf of the function with
// this ID, for one of its calls. opens is the command that opens it; "": none does.
func (l *Launcher) RefusedOf(function, call, what, opens string) {
	if opens == "" {
		l.tellRefused(function, call, what+"; this address cannot be opened")
		return
	}
	l.tellRefused(function, call, what+"; this opens it: "+opens)
}

func (l *Launcher) tellRefused(function, call, line string) {
	l.mu.Lock()
	if l.refused == nil {
		l.refused = make(map[string]int)
	}
	l.refused[function]++
	l.mu.Unlock()
	w := l.Logs.Writer(function, call, "hob")
	fmt.Fprintln(w, "refused: "+line) // what the log cannot keep, it counts itself
	w.Close()
}

// Quote returns a text as a shell takes it, whatever somebody has put into it.
func Quote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:@%", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	printable := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
	return "'" + strings.ReplaceAll(printable, "'", `'\''`) + "'"
}

// withID returns whose a sandbox is that lives, or has ended lately.
func (l *Launcher) withID(id string) (of whose, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.byID[id]; p != nil {
		return whose{id, p.function, p.name, callOf(p.call.Load())}, true
	}
	i := slices.IndexFunc(l.ended[:], func(e whose) bool { return e.id == id && id != "" })
	if i < 0 {
		return whose{}, false
	}
	return l.ended[i], true
}

// Refusals returns how many connections of a function policy has refused, as far as
// they were told (ten a second of a sandbox).
func (l *Launcher) Refusals(function string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused[function]
}

// Forget is told that a function is no more.
func (l *Launcher) Forget(function string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.refused, function)
	for i := range l.ended {
		if l.ended[i].function == function {
			l.ended[i] = whose{}
		}
	}
}
