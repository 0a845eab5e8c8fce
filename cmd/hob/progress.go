package main

import (
	"fmt"
	"strings"

	"hob/client"
	"hob/faas"
)

// progress shows on standard error how far a pull is: one line that is drawn
// over and over on a terminal, else a line for each layer that is done.
type progress struct {
	c     *cli
	image string
	drawn int             // width of what is on the terminal's line
	told  map[string]bool // layers that a line was printed for
}

func newProgress(c *cli, image string) *progress {
	return &progress{c: c, image: image, told: map[string]bool{}}
}

// barWidth is the inside of the bar, so that the line fits a narrow terminal.
const barWidth = 24

func (p *progress) step(s client.Progress) {
	if p.c.json {
		return
	}
	done, unpacking := 0, 0
	for _, l := range s.Layers {
		switch l.State {
		case "done":
			done++
		case "unpacking":
			unpacking++
		}
	}
	if !p.c.Terminal(p.c.Stderr) {
		for _, l := range s.Layers {
			if l.State == "done" && !p.told[l.Digest] {
				p.told[l.Digest] = true
				fmt.Fprintf(p.c.Stderr, "%s: layer %s done, %v\n", printable(p.image), short(l.Digest), l.Total)
			}
		}
		return
	}
	filled := 0
	if s.Total > 0 {
		filled = int(barWidth * min(s.Done, s.Total) / s.Total)
	}
	line := fmt.Sprintf("%s [%s%s] %v of %v, %d of %d layers", printable(p.image),
		strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), s.Done, max(s.Total, faas.Bytes(0)), done, len(s.Layers))
	if unpacking > 0 {
		line += ", unpacking"
	}
	fmt.Fprintf(p.c.Stderr, "\r%-*s", p.drawn, line)
	p.drawn = len(line)
}

// end leaves the terminal with an empty line to go on with.
func (p *progress) end() {
	if p.drawn > 0 {
		fmt.Fprintf(p.c.Stderr, "\r%s\r", strings.Repeat(" ", p.drawn))
	}
}
