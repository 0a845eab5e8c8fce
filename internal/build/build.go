// Package build makes an image out of a program or a directory, on nothing or
// on a base image, without any container engine.
//
// The same input gives the same digest, on any machine and on any day: names,
// contents, modes, links and options count; times, owners and the order of a
// directory do not. The package owns the shape of the layer it adds and the
// checks that the result can start; it leaves pulling with progress, storing
// and running to others. It needs no root.
package build

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"hob/faas"
)

// Limits of what one build takes in.
const (
	MaxBytes = 4 * faas.GB // contents of a program or directory, and of all files of a base
	MaxFiles = 200_000     // entries of a directory; a base may have five times as many
	maxPath  = 4096        // bytes of a name with its directories, and of a link's target
)

// Options say what goes into an image and how it starts. Everything but Program
// or Dir may be left zero.
type Options struct {
	Program string // a file that becomes /NAME and the entrypoint; for FromProgram
	Name    string // of the program in the image; "": its file name
	Dir     string // whose content becomes the root; for FromDir
	Into    string // directory of the image that gets the content of Dir in place of the root
	Shown   string // what messages call Dir; "": Dir

	// Skip leaves out names in Dir, and all that is below one; nil: none.
	Skip func(name string, dir bool) bool

	Base   v1.Image // what the new layer lies on; nil: From
	From   string   // where OpenBase finds the base; "" or "scratch": nothing
	Remote Remote   // how From is read

	// Platform as "linux/arm64". "": that of the entrypoint's ELF header, else
	// the base's, else this machine's.
	Platform string

	Entrypoint []string // nil: the program, or the base's
	Cmd        []string // nil: the base's, unless the entrypoint is new
	Env        []string // "NAME=value", added to the base's
	Workdir    string   // absolute; "": the base's
	User       string   // "user[:group]"; "": the base's
	Labels     map[string]string
	Ports      []string // "8080" or "8080/udp", added to the base's

	// Created is the time in the image. Zero: the seconds in the environment
	// variable SOURCE_DATE_EPOCH, else 1970-01-01.
	Created time.Time

	MaxBytes faas.Bytes // 0: MaxBytes
	MaxFiles int        // 0: MaxFiles
}

// FromProgram makes an image of one file: a statically linked ELF program
// needs nothing else; a dynamically linked one, or a script, needs a base that
// holds its interpreter. With an Entrypoint of its own the file may be anything.
//
// The image holds an open temporary file until it is garbage.
func FromProgram(ctx context.Context, opt Options) (v1.Image, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	if opt.Program == "" {
		return nil, faas.Errorf(faas.Invalid, "no program is named")
	}
	info, err := os.Stat(opt.Program)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, faas.Errorf(faas.NotFound, "program %s: no such file", opt.Program)
	case err != nil:
		return nil, faas.Errorf(faas.Invalid, "program: %w", err)
	case info.IsDir():
		return nil, faas.Errorf(faas.Invalid, "%s is a directory, not a program", opt.Program)
	case !info.Mode().IsRegular():
		return nil, faas.Errorf(faas.Invalid, "program %s is not a regular file", opt.Program)
	case faas.Bytes(info.Size()) > opt.MaxBytes:
		return nil, faas.Errorf(faas.TooLarge, "program %s of %v is over the limit of %v", opt.Program, faas.Bytes(info.Size()), opt.MaxBytes)
	}
	name := opt.Name
	if name == "" {
		name = filepath.Base(opt.Program)
	}
	if err := faas.CheckName("program", name); err != nil {
		return nil, err
	}
	if opt.Entrypoint == nil {
		opt.Entrypoint = []string{"/" + name}
	}
	root := newTree()
	root.put(name, &node{kind: file, mode: 0o755, size: info.Size(), own: true, from: opt.Program,
		open: func() (io.ReadCloser, error) { return os.Open(opt.Program) }})
	return assemble(ctx, root, opt)
}

// FromDir makes an image whose root is the content of a directory. Symbolic
// links, hard links and modes are kept (but for write permission of the group
// alone, which differs from one umask to the next); everything is owned by
// 0:0; extended attributes are dropped; devices, sockets and pipes are refused.
// On a base a directory of the same name keeps the base's mode, and a link of
// the base to a directory stays a link and is followed.
//
// The image holds an open temporary file until it is garbage.
func FromDir(ctx context.Context, opt Options) (v1.Image, error) {
	opt, err := opt.withDefaults()
	if err != nil {
		return nil, err
	}
	if opt.Dir == "" {
		return nil, faas.Errorf(faas.Invalid, "no directory is named")
	}
	opt.Shown = cmp.Or(opt.Shown, opt.Dir)
	info, err := os.Stat(opt.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, faas.Errorf(faas.NotFound, "directory %s: no such directory", opt.Dir)
	case err != nil:
		return nil, faas.Errorf(faas.Invalid, "directory: %w", err)
	case !info.IsDir():
		return nil, faas.Errorf(faas.Invalid, "%s is not a directory", opt.Dir)
	}
	dir, err := os.OpenRoot(opt.Dir)
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "directory: %w", err)
	}
	defer dir.Close()
	root, err := readDir(ctx, dir, opt)
	if err != nil {
		return nil, err
	}
	return assemble(ctx, root, opt)
}

// Warnings says in words what about an image is allowed but seldom meant.
func Warnings(img v1.Image) ([]string, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	var all []string
	if len(cf.Config.Entrypoint) == 0 && len(cf.Config.Cmd) == 0 {
		all = append(all, "the image has neither entrypoint nor command: every function made of it has to name one")
	}
	if cf.Architecture != runtime.GOARCH {
		all = append(all, "the image is for "+platformOf(cf).String()+" and this machine is linux/"+runtime.GOARCH)
	}
	return all, nil
}

// withDefaults checks what can be checked without looking at a file and fills
// in the rest.
func (o Options) withDefaults() (Options, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = MaxBytes
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = MaxFiles
	}
	if o.Platform != "" {
		if _, err := parsePlatform(o.Platform); err != nil {
			return o, err
		}
	}
	for _, e := range o.Env {
		name, value, ok := strings.Cut(e, "=")
		if !ok {
			return o, faas.Errorf(faas.Invalid, "bad environment entry %q: write it as NAME=value", e)
		}
		if err := faas.CheckEnv(map[string]string{name: value}); err != nil {
			return o, err
		}
	}
	for _, arg := range slices.Concat(o.Entrypoint, o.Cmd) {
		if strings.ContainsRune(arg, 0) {
			return o, faas.Errorf(faas.Invalid, "an argument of the entrypoint or command holds a zero byte")
		}
	}
	if len(o.Entrypoint) > 0 && o.Entrypoint[0] == "" {
		return o, faas.Errorf(faas.Invalid, "the entrypoint begins with an empty word")
	}
	if o.Workdir != "" && !path.IsAbs(o.Workdir) {
		return o, faas.Errorf(faas.Invalid, "workdir %q is not an absolute path", o.Workdir)
	}
	if strings.ContainsAny(o.User, " \t\n\x00/") || strings.Count(o.User, ":") > 1 || strings.HasPrefix(o.User, ":") {
		return o, faas.Errorf(faas.Invalid, "bad user %q: write it as user, uid, user:group or uid:gid", o.User)
	}
	for key := range o.Labels {
		if key == "" {
			return o, faas.Errorf(faas.Invalid, "a label has no name")
		}
	}
	ports := make([]string, len(o.Ports))
	for i, p := range o.Ports {
		num, proto, ok := strings.Cut(p, "/")
		if !ok {
			proto = "tcp"
		}
		n, err := strconv.ParseUint(num, 10, 16)
		if err != nil || n == 0 || proto != "tcp" && proto != "udp" && proto != "sctp" {
			return o, faas.Errorf(faas.Invalid, "bad port %q: write it as 8080, 8080/tcp or 8080/udp", p)
		}
		ports[i] = strconv.FormatUint(n, 10) + "/" + proto
	}
	o.Ports = ports
	if o.Created.IsZero() {
		o.Created = time.Unix(0, 0)
		if s := os.Getenv("SOURCE_DATE_EPOCH"); s != "" {
			sec, err := strconv.ParseInt(s, 10, 64)
			if err != nil || sec < 0 || sec > 253402300799 {
				return o, faas.Errorf(faas.Invalid, "SOURCE_DATE_EPOCH %q is not a number of seconds since 1970 before the year 10000", s)
			}
			o.Created = time.Unix(sec, 0)
		}
	}
	o.Created = o.Created.UTC().Truncate(time.Second)
	return o, nil
}

// assemble puts the entries of own, a tree of nothing but the caller's files,
// on the base.
func assemble(ctx context.Context, own *tree, opt Options) (v1.Image, error) {
	want, err := wanted(own, opt)
	if err != nil {
		return nil, err
	}
	base := opt.Base
	if base == nil && opt.From != "" && opt.From != "scratch" {
		remote := opt.Remote
		if remote.Platform == "" && want != nil {
			remote.Platform = want.String()
		}
		if base, err = OpenBase(ctx, opt.From, remote); err != nil {
			return nil, err
		}
	}

	all, scratch := newTree(), base == nil
	if scratch {
		if want == nil {
			want = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
		}
		base = mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	} else {
		cf, err := base.ConfigFile()
		if err != nil {
			return nil, faas.Errorf(faas.Invalid, "read the base image: %w", err)
		}
		has := platformOf(cf)
		if want == nil {
			want = &has
		}
		if has.OS != want.OS || has.Architecture != want.Architecture {
			return nil, faas.Errorf(faas.Invalid, "the base image is for %v, what goes on it is for %v", has, *want)
		}
		if err := all.readImage(ctx, base, 5*opt.MaxFiles); err != nil {
			return nil, err
		}
	}
	entries, err := all.lay(own)
	if err != nil {
		return nil, err
	}

	mt, err := base.MediaType()
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "read the base image: %w", err)
	}
	layerType := types.OCILayer
	if mt == types.DockerManifestSchema2 {
		layerType = types.DockerLayer
	}
	cf, err := base.ConfigFile()
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "read the base image: %w", err)
	}
	cfg := opt.config(cf.Config)
	if err := all.checkStart(cfg, opt.Entrypoint != nil || opt.Cmd != nil && len(cfg.Entrypoint) == 0, *want, scratch); err != nil {
		return nil, err
	}
	layer, err := writeLayer(ctx, entries, layerType, opt.MaxBytes)
	if err != nil {
		return nil, err
	}
	img, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: opt.Created}, CreatedBy: "hob image build"},
	})
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "add a layer to the base image: %w", err)
	}
	if cf, err = img.ConfigFile(); err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Config = cfg
	cf.Created = v1.Time{Time: opt.Created}
	cf.OS, cf.Architecture = want.OS, want.Architecture
	if scratch {
		cf.Variant = want.Variant
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, err
	}
	if _, err := img.Digest(); err != nil { // computes everything now, not at a push
		return nil, err
	}
	return img, nil
}

// wanted is the platform that the caller asked for or the entrypoint is made
// for, nil if neither says.
func wanted(own *tree, opt Options) (*v1.Platform, error) {
	var want *v1.Platform
	if opt.Platform != "" {
		p, err := parsePlatform(opt.Platform)
		if err != nil {
			return nil, err
		}
		want = &p
	}
	if len(opt.Entrypoint) == 0 || !path.IsAbs(opt.Entrypoint[0]) {
		return want, nil
	}
	n, at := own.resolve(opt.Entrypoint[0])
	if n == nil || n.kind != file {
		return want, nil // the base may have it: checkStart looks
	}
	prog, err := n.inspect()
	if err != nil {
		return nil, err
	}
	if prog.arch == "" { // a script fits every platform
		return want, nil
	}
	if want == nil {
		return &v1.Platform{OS: "linux", Architecture: prog.arch}, nil
	}
	if want.Architecture != prog.arch {
		return nil, faas.Errorf(faas.Invalid, "/%s is a program for linux/%s, not for %v", at, prog.arch, *want)
	}
	return want, nil
}

// config is the base's configuration with the options over it.
func (o Options) config(base v1.Config) v1.Config {
	cfg := *base.DeepCopy()
	if o.Entrypoint != nil {
		cfg.Entrypoint, cfg.Cmd = o.Entrypoint, nil
	}
	if o.Cmd != nil {
		cfg.Cmd = o.Cmd
	}
	for _, e := range o.Env {
		name, _, _ := strings.Cut(e, "=")
		i := slices.IndexFunc(cfg.Env, func(have string) bool { return strings.HasPrefix(have, name+"=") })
		if i < 0 {
			cfg.Env = append(cfg.Env, e)
		} else {
			cfg.Env[i] = e
		}
	}
	if o.Workdir != "" {
		cfg.WorkingDir = path.Clean(o.Workdir)
	}
	if o.User != "" {
		cfg.User = o.User
	}
	for key, value := range o.Labels {
		if cfg.Labels == nil {
			cfg.Labels = make(map[string]string)
		}
		cfg.Labels[key] = value
	}
	for _, p := range o.Ports {
		if cfg.ExposedPorts == nil {
			cfg.ExposedPorts = make(map[string]struct{})
		}
		cfg.ExposedPorts[p] = struct{}{}
	}
	return cfg
}

func parsePlatform(s string) (v1.Platform, error) {
	p, err := v1.ParsePlatform(s)
	if err != nil || p.Architecture == "" || p.OSVersion != "" || p.OS != "linux" {
		return v1.Platform{}, faas.Errorf(faas.Invalid, "bad platform %q: write it as linux/amd64 or linux/arm64", s)
	}
	return *p, nil
}

func platformOf(cf *v1.ConfigFile) v1.Platform {
	return v1.Platform{OS: cf.OS, Architecture: cf.Architecture, Variant: cf.Variant}
}
