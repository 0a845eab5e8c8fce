package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// pages is where the reference pages are; they are made of the help texts.
const pages = "../../docs/cli"

const made = "<!-- made from the help texts by: go test ./cmd/hob -run TestReferencePagesAreTrue -update -->\n\n"

func TestReferencePagesAreTrue(t *testing.T) {
	root := newRoot(&cli{environ: &environ{}})
	want := map[string]string{"README.md": index(root)}
	for _, cmd := range root.Commands() {
		if cmd.Name() != "help" && !cmd.Hidden {
			want["hob-"+cmd.Name()+".md"] = made + page(cmd, 1)
		}
	}
	if *update {
		if err := os.RemoveAll(pages); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(pages, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(pages, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(pages, name))
		if err != nil {
			t.Error(err)
		} else if string(got) != text {
			t.Errorf("docs/cli/%s is not what the help says: run this test with -update and look at the difference", name)
		}
	}
	there, err := os.ReadDir(pages)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range there {
		if _, ok := want[file.Name()]; !ok {
			t.Errorf("docs/cli/%s belongs to no command", file.Name())
		}
	}
}

func TestEveryVerbExplainsItself(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") || cmd.Short[0] < 'a' || cmd.Short[0] > 'z' {
			t.Errorf("%s: short help %q is not a phrase in lower case", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Runnable() && cmd.Args == nil && cmd.Name() != "help" {
			t.Errorf("%s does not check its arguments", cmd.CommandPath())
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || strings.HasSuffix(f.Usage, ".") {
				t.Errorf("%s --%s: help %q", cmd.CommandPath(), f.Name, f.Usage)
			}
		})
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&cli{environ: &environ{}}))
}

func index(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString(made + "# The command line\n\n" + fenced(root.Long))
	list := func(title string, of func(*cobra.Command) bool) {
		fmt.Fprintf(&b, "## %s\n\n| command | |\n|---|---|\n", strings.TrimSuffix(title, ":"))
		for _, cmd := range root.Commands() {
			if of(cmd) && cmd.Name() != "help" && !cmd.Hidden {
				fmt.Fprintf(&b, "| [hob %s](hob-%s.md) | %s |\n", cmd.Name(), cmd.Name(), cmd.Short)
			}
		}
		b.WriteString("\n")
	}
	for _, g := range root.Groups() {
		list(g.Title, func(cmd *cobra.Command) bool { return cmd.GroupID == g.ID })
	}
	list("Topics", func(cmd *cobra.Command) bool { return cmd.IsAdditionalHelpTopicCommand() })
	b.WriteString("## Flags of every command\n\n" + fenced(root.PersistentFlags().FlagUsages()))
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// page is the help of a command and those below it.
func page(cmd *cobra.Command, depth int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n\n", strings.Repeat("#", depth), cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = strings.ToUpper(cmd.Short[:1]) + cmd.Short[1:] + "."
	}
	b.WriteString(fenced(text))
	if cmd.Runnable() && !cmd.HasSubCommands() || cmd.Name() == "calls" {
		b.WriteString(fenced(cmd.UseLine()))
	}
	if cmd.Example != "" {
		b.WriteString("Examples:\n\n" + fenced(cmd.Example))
	}
	if flags := cmd.LocalNonPersistentFlags().FlagUsages(); flags != "" {
		b.WriteString("Flags:\n\n" + fenced(flags))
	}
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && cmd.Name() != "completion" {
			b.WriteString(page(sub, depth+1) + "\n")
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

func fenced(text string) string {
	return "```text\n" + strings.Trim(text, "\n") + "\n```\n\n"
}
