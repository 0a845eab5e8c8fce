package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode"

	"hob/faas"
)

// printJSON prints v as one indented value.
func (c *cli) printJSON(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return printed(enc.Encode(v))
}

// printLine prints v as one line of JSON, for streams of them.
func (c *cli) printLine(v any) error {
	enc := json.NewEncoder(c.Stdout)
	enc.SetEscapeHTML(false)
	return printed(enc.Encode(v))
}

func printed(err error) error {
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// printTemplate prints v as the Go template format says.
func (c *cli) printTemplate(format string, v any) error {
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			var b strings.Builder
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSuffix(b.String(), "\n"), err
		},
		"join": strings.Join,
	}).Parse(format)
	if err != nil {
		return faas.Errorf(faas.Invalid, "bad --format: %w", err)
	}
	var out strings.Builder
	if err := t.Execute(&out, v); err != nil {
		return faas.Errorf(faas.Invalid, "bad --format: %w", err)
	}
	_, err = fmt.Fprintln(c.Stdout, out.String())
	return printed(err)
}

// table prints rows in columns, two blanks apart, also where letters take two
// places of a terminal.
type table struct {
	w    io.Writer
	rows *[][]string
}

func (c *cli) table(head ...string) table { return newTable(c.Stdout, head...) }

func newTable(w io.Writer, head ...string) table {
	t := table{w, new([][]string)}
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

func (t table) row(cells ...string) {
	for len(cells) > 1 && cells[len(cells)-1] == "" {
		cells = cells[:len(cells)-1]
	}
	for i, cell := range cells {
		cells[i] = printable(cell)
	}
	*t.rows = append(*t.rows, cells)
}

func (t table) flush() error {
	var widths []int
	for _, row := range *t.rows {
		for i, cell := range row[:len(row)-1] { // the last one of a row needs no room
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	var out strings.Builder
	for _, row := range *t.rows {
		for i, cell := range row {
			out.WriteString(cell)
			if i < len(row)-1 {
				out.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
			}
		}
		out.WriteString("\n")
	}
	_, err := io.WriteString(t.w, out.String())
	return printed(err)
}

// width is how many places of a terminal s takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case r >= 0xff61 && r <= 0xffdc: // halfwidth forms
			n++
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul, unicode.Bopomofo, unicode.Yi), r > 0xff00 && r <= 0xff60:
			n += 2
		default:
			n++
		}
	}
	return n
}

// printable keeps what a user wrote from breaking a table or driving a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// age is how long ago t was, as "3s", "5m", "2h" or "12d".
func age(t time.Time) string {
	d := max(time.Since(t), 0)
	switch {
	case t.IsZero():
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// took is a duration to three digits.
func took(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// short is the beginning of a digest that is long enough to name it.
func short(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return hex[:min(12, len(hex))]
}

// orDash shows that there is nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printName prints one name as a line.
func (c *cli) printName(name string) error {
	_, err := fmt.Fprintln(c.Stdout, name)
	return printed(err)
}

func count(n int) string { return strconv.Itoa(n) }
