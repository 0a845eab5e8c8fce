package build

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"hob/faas"
)

// A program is what the head of an executable file says about it.
type program struct {
	arch   string   // as Go names it; "" for a script
	interp []string // what has to be there to start it: the dynamic linker, or a script's interpreter and its argument
	script bool
}

// arches maps the machines of ELF to Go's names, for both byte orders.
func archOf(h elf.FileHeader) string {
	little := h.Data == elf.ELFDATA2LSB
	switch {
	case h.Machine == elf.EM_X86_64 && h.Class == elf.ELFCLASS64:
		return "amd64"
	case h.Machine == elf.EM_AARCH64 && little:
		return "arm64"
	case h.Machine == elf.EM_386:
		return "386"
	case h.Machine == elf.EM_ARM && little:
		return "arm"
	case h.Machine == elf.EM_RISCV && h.Class == elf.ELFCLASS64:
		return "riscv64"
	case h.Machine == elf.EM_PPC64 && little:
		return "ppc64le"
	case h.Machine == elf.EM_PPC64:
		return "ppc64"
	case h.Machine == elf.EM_S390:
		return "s390x"
	case h.Machine == elf.EM_LOONGARCH && h.Class == elf.ELFCLASS64:
		return "loong64"
	case h.Machine == elf.EM_MIPS && h.Class == elf.ELFCLASS64 && little:
		return "mips64le"
	}
	return ""
}

// inspect reads the head of a file of the caller's own.
func (n *node) inspect() (program, error) {
	rc, err := n.open()
	if err != nil {
		return program{}, faas.Errorf(faas.Invalid, "read %s: %w", n.from, err)
	}
	defer rc.Close()
	f, ok := rc.(*os.File)
	if !ok {
		return program{}, faas.Errorf(faas.Internal, "read %s: not a file", n.from)
	}
	head := make([]byte, 4096)
	k, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return program{}, faas.Errorf(faas.Invalid, "read %s: %w", n.from, err)
	}
	return inspect(n.from, head[:k], f)
}

// inspect reads what kind of program the file named from is: head is its first
// 4 KB, all the whole of it.
func inspect(from string, head []byte, all io.ReaderAt) (program, error) {
	switch {
	case len(head) == 0:
		return program{}, faas.Errorf(faas.Invalid, "%s is an empty file, not a program", from)
	case bytes.HasPrefix(head, []byte("#!")):
		return inspectScript(from, head)
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return inspectELF(from, all)
	case bytes.HasPrefix(head, []byte("MZ")):
		return program{}, faas.Errorf(faas.Invalid, "%s is a Windows program: build it for Linux", from)
	case bytes.HasPrefix(head, []byte("\xcf\xfa\xed\xfe")), bytes.HasPrefix(head, []byte("\xca\xfe\xba\xbe")):
		return program{}, faas.Errorf(faas.Invalid, "%s is a macOS program (or Java class): build it for Linux (with Go: GOOS=linux)", from)
	}
	return program{}, faas.Errorf(faas.Invalid, "%s is neither an ELF program nor a script that begins with #!", from)
}

func inspectScript(from string, head []byte) (program, error) {
	line, _, found := bytes.Cut(head, []byte("\n"))
	if !found && len(head) == 4096 {
		return program{}, faas.Errorf(faas.Invalid, "the first line of the script %s is over the limit of 4096 bytes", from)
	}
	if bytes.HasSuffix(line, []byte("\r")) {
		return program{}, faas.Errorf(faas.Invalid, "the script %s has Windows line ends: its first line would name a program that ends in a carriage return", from)
	}
	words := strings.Fields(string(line[2:]))
	if len(words) == 0 || !path.IsAbs(words[0]) {
		return program{}, faas.Errorf(faas.Invalid, "the first line of the script %s names no interpreter by an absolute path", from)
	}
	return program{interp: words, script: true}, nil
}

func inspectELF(from string, all io.ReaderAt) (p program, err error) {
	f, err := elf.NewFile(all)
	if err != nil {
		return program{}, faas.Errorf(faas.Invalid, "%s is a damaged ELF program: %w", from, err)
	}
	defer f.Close()
	if p.arch = archOf(f.FileHeader); p.arch == "" {
		return program{}, faas.Errorf(faas.Invalid, "%s is a program for a processor that no image platform names (%v)", from, f.Machine)
	}
	switch f.Type {
	case elf.ET_EXEC, elf.ET_DYN:
	case elf.ET_REL:
		return program{}, faas.Errorf(faas.Invalid, "%s is an object file that has not been linked", from)
	default:
		return program{}, faas.Errorf(faas.Invalid, "%s is an ELF file but not a program (%v)", from, f.Type)
	}
	for _, seg := range f.Progs {
		if seg.Type != elf.PT_INTERP {
			continue
		}
		if seg.Filesz > maxPath {
			return program{}, faas.Errorf(faas.Invalid, "%s names an interpreter of %d bytes, over the limit of %d", from, seg.Filesz, maxPath)
		}
		name, err := bufio.NewReader(seg.Open()).ReadString(0)
		if err != nil {
			return program{}, faas.Errorf(faas.Invalid, "%s is a damaged ELF program: its interpreter has no end", from)
		}
		p.interp = []string{strings.TrimSuffix(name, "\x00")}
	}
	if f.Type == elf.ET_DYN && p.interp == nil && f.Entry == 0 {
		return program{}, faas.Errorf(faas.Invalid, "%s is a shared library, not a program", from)
	}
	return p, nil
}

// defaultPath is where a program is looked for when the image says nothing.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// checkStart reports why what cfg starts cannot start in t. What the base
// brings is only looked for by name. What is not there is an error only if the
// caller asked for it: a base may be wrong about itself.
func (t *tree) checkStart(cfg v1.Config, asked bool, want v1.Platform, scratch bool) error {
	words := cfg.Entrypoint
	if len(words) == 0 {
		words = cfg.Cmd
	}
	if len(words) == 0 || words[0] == "" {
		return nil // Warnings tells
	}
	n, at := t.find(words[0], cfg)
	if n == nil && !asked {
		return nil
	}
	if n == nil {
		return faas.Errorf(faas.Invalid, "the image would start %s, and there is no such file in it", words[0])
	}
	return t.checkProgram(n, at, cfg, want, scratch, 0)
}

func (t *tree) checkProgram(n *node, at string, cfg v1.Config, want v1.Platform, scratch bool, depth int) error {
	switch {
	case n.kind == directory:
		return faas.Errorf(faas.Invalid, "the image would start /%s, which is a directory", at)
	case !n.own || n.kind != file:
		return nil
	case n.mode&0o111 == 0:
		return faas.Errorf(faas.Invalid, "the image would start /%s, which is not executable: chmod +x %s", at, n.from)
	case depth > 4:
		return faas.Errorf(faas.Invalid, "the script /%s is interpreted by a script by a script by a script by a script", at)
	}
	p, err := n.inspect()
	if err != nil {
		return err
	}
	if p.arch != "" && p.arch != want.Architecture {
		return faas.Errorf(faas.Invalid, "%s is a program for linux/%s, the image is for %v", n.from, p.arch, want)
	}
	if len(p.interp) == 0 {
		return nil
	}
	in, real := t.find(p.interp[0], cfg)
	switch {
	case in == nil && p.script && scratch:
		return faas.Errorf(faas.Invalid, "the script %s needs %s, which is not in the image: choose a base image that has it", n.from, p.interp[0])
	case in == nil && p.script:
		return faas.Errorf(faas.Invalid, "the script %s needs %s, which the base image does not have", n.from, p.interp[0])
	case in == nil && scratch:
		return faas.Errorf(faas.Invalid, "%s is dynamically linked and needs %s, which is not in the image: link it statically (with Go: CGO_ENABLED=0) or choose a base image", n.from, p.interp[0])
	case in == nil:
		return faas.Errorf(faas.Invalid, "%s is dynamically linked and needs %s, which the base image does not have: link it statically or choose another base", n.from, p.interp[0])
	case !p.script:
		return nil
	}
	if path.Base(p.interp[0]) == "env" && len(p.interp) > 1 && !strings.HasPrefix(p.interp[1], "-") && !strings.Contains(p.interp[1], "=") {
		if prog, _ := t.find(p.interp[1], cfg); prog == nil {
			return faas.Errorf(faas.Invalid, "the script %s needs the program %s, which is not in the image", n.from, p.interp[1])
		}
	}
	return t.checkProgram(in, real, cfg, want, scratch, depth+1)
}

// find looks for a program as execution does: by path, else along PATH.
func (t *tree) find(name string, cfg v1.Config) (*node, string) {
	if strings.Contains(name, "/") {
		if !path.IsAbs(name) {
			name = path.Join("/", cfg.WorkingDir, name)
		}
		return t.resolve(name)
	}
	dirs := defaultPath
	for _, e := range cfg.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			dirs = v
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if n, at := t.resolve(path.Join("/", dir, name)); n != nil && n.kind != directory {
			return n, at
		}
	}
	return nil, ""
}
