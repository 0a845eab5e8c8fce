package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

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
			b, err := json.Marshal(v)
			return string(b), err
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

// table prints rows in columns.
type table struct{ w *tabwriter.Writer }

func (c *cli) table(head ...string) table { return newTable(c.Stdout, head...) }

func newTable(w io.Writer, head ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
	if len(head) > 0 {
		t.row(head...)
	}
	return t
}

func (t table) row(cells ...string) {
	for i, cell := range cells {
		cells[i] = printable(cell)
	}
	fmt.Fprintln(t.w, strings.TrimRight(strings.Join(cells, "\t"), "\t"))
}

func (t table) flush() error { return printed(t.w.Flush()) }

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
