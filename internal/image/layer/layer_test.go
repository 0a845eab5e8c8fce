package layer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"hob/internal/image/content"
	"hob/internal/image/layer"
	"hob/internal/testenv"
)

// entry is one entry of a tar; body makes it a regular file.
type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, body}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

func symlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}}
}

func hardlink(name, to string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}}
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// unpack unpacks into a directory inside a fresh one, which is checked for what
// escaped.
func unpack(t testing.TB, data []byte, lim layer.Limits) (string, layer.Result, error) {
	t.Helper()
	cage := t.TempDir()
	root := filepath.Join(cage, "a", "b")
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	res, err := layer.Unpack(t.Context(), bytes.NewReader(data), root, lim)
	for dir, only := range map[string]string{cage: "a", filepath.Join(cage, "a"): "b"} {
		entries, rerr := os.ReadDir(dir)
		if rerr != nil || len(entries) != 1 || entries[0].Name() != only {
			t.Fatalf("something was written outside the layer: %v, %v", entries, rerr)
		}
	}
	return root, res, err
}

func must(t testing.TB, entries ...entry) string {
	t.Helper()
	root, _, err := unpack(t, pack(t, entries...), layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func want(t testing.TB, root, name, body string) {
	t.Helper()
	if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != body {
		t.Errorf("%s is %q, %v; want %q", name, got, err, body)
	}
}

func stat(t testing.TB, root, name string) (fs.FileInfo, *syscall.Stat_t) {
	t.Helper()
	info, err := os.Lstat(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return info, info.Sys().(*syscall.Stat_t)
}

func TestEveryCompressionUnpacksTheSame(t *testing.T) {
	plain := pack(t, dir("d/"), file("d/f", "hello"))
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	g.Write(plain)
	g.Close()
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(plain)
	z.Close()
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, zs.Bytes()...)
	for name, data := range map[string][]byte{"plain": plain, "gzip": gz.Bytes(), "zstd": zs.Bytes(), "zstd with a skippable frame": skippable} {
		t.Run(name, func(t *testing.T) {
			root, res, err := unpack(t, data, layer.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			want(t, root, "d/f", "hello")
			if res.DiffID != content.Digest(plain) {
				t.Errorf("diffID %s, want %s", res.DiffID, content.Digest(plain))
			}
			if res.Entries != 2 || res.Size == 0 {
				t.Errorf("result %+v", res)
			}
		})
	}
}

func TestModesTimesAndLinksAreKept(t *testing.T) {
	at := time.Date(2020, 2, 3, 4, 5, 6, 789_000_000, time.UTC)
	suid := file("bin/su", "su")
	suid.Mode, suid.ModTime, suid.Format = 0o4755, at, tar.FormatPAX
	closed := dir("closed/")
	closed.Mode, closed.ModTime = 0o1500, at
	old := file("old", "")
	old.ModTime = time.Unix(-5, 0)
	old.Format = tar.FormatPAX
	root := must(t, closed, file("closed/in", "1"), suid, hardlink("bin/sudo", "bin/su"), symlink("abs", "/etc/passwd"), symlink("up", "../../../x"),
		entry{Header: tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o620}}, old)
	info, st := stat(t, root, "bin/su")
	if info.Mode() != 0o755|fs.ModeSetuid || !info.ModTime().Equal(at) {
		t.Errorf("bin/su has mode %v and time %v", info.Mode(), info.ModTime())
	}
	if _, other := stat(t, root, "bin/sudo"); other.Ino != st.Ino || st.Nlink != 2 {
		t.Errorf("hard link: inodes %d and %d, %d links", st.Ino, other.Ino, st.Nlink)
	}
	if info, _ := stat(t, root, "closed"); info.Mode() != 0o500|fs.ModeDir|fs.ModeSticky || !info.ModTime().Equal(at.Round(time.Second)) {
		t.Errorf("closed has mode %v and time %v: what was put in changed it", info.Mode(), info.ModTime())
	}
	if to, _ := os.Readlink(filepath.Join(root, "abs")); to != "/etc/passwd" {
		t.Errorf("link to %q", to)
	}
	if to, _ := os.Readlink(filepath.Join(root, "up")); to != "../../../x" {
		t.Errorf("link to %q", to)
	}
	if info, _ := stat(t, root, "pipe"); info.Mode() != 0o620|fs.ModeNamedPipe {
		t.Errorf("fifo has mode %v", info.Mode())
	}
	if info, _ := stat(t, root, "bin"); info.Mode() != 0o755|fs.ModeDir {
		t.Errorf("a parent that the tar does not have has mode %v", info.Mode())
	}
	if info, _ := stat(t, root, "old"); info.ModTime().Unix() != 0 {
		t.Errorf("time before 1970 became %v", info.ModTime())
	}
	os.Chmod(filepath.Join(root, "closed"), 0o700) // for the clean-up
}

func TestOwnersAndAttributesAreKept(t *testing.T) {
	testenv.NeedRoot(t)
	caps := make([]byte, 20) // VFS_CAP_REVISION_2, CAP_NET_BIND_SERVICE permitted
	binary.LittleEndian.PutUint32(caps, 0x02000001)
	binary.LittleEndian.PutUint32(caps[4:], 1<<10)
	f := file("ping", "ping")
	f.Uid, f.Gid, f.Mode = 1234, 70000, 0o6755
	f.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": string(caps),
		"SCHILY.xattr.user.note":           "kept",
		"SCHILY.xattr.trusted.other":       "left out",
	}
	d, l := dir("d/"), symlink("l", "ping")
	d.Uid, d.Gid, l.Uid = 5, 6, 7
	root, res, err := unpack(t, pack(t, d, f, l), layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	info, st := stat(t, root, "ping")
	if st.Uid != 1234 || st.Gid != 70000 || info.Mode() != 0o755|fs.ModeSetuid|fs.ModeSetgid {
		t.Errorf("ping is of %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	if _, st := stat(t, root, "d"); st.Uid != 5 || st.Gid != 6 {
		t.Errorf("d is of %d:%d", st.Uid, st.Gid)
	}
	if _, st := stat(t, root, "l"); st.Uid != 7 {
		t.Errorf("l is of %d", st.Uid)
	}
	got := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(root, "ping"), "security.capability", got); err != nil || !bytes.Equal(got[:n], caps) {
		t.Errorf("capabilities %x, %v; want %x", got[:max(n, 0)], err, caps)
	}
	if n, err := unix.Getxattr(filepath.Join(root, "ping"), "user.note", got); err != nil || string(got[:n]) != "kept" {
		t.Errorf("user.note %q, %v", got[:max(n, 0)], err)
	}
	if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "trusted.other") || !res.Owners {
		t.Errorf("notes %q, owners %v", res.Notes, res.Owners)
	}
}

func isWhiteout(t *testing.T, root, name string) bool {
	t.Helper()
	info, st := stat(t, root, name)
	return info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

func isOpaque(root, name string) bool {
	var v [4]byte
	n, err := unix.Getxattr(filepath.Join(root, name), "trusted.overlay.opaque", v[:])
	return err == nil && string(v[:n]) == "y"
}

func TestWhiteoutsTakeTheFormOfOverlayfs(t *testing.T) {
	testenv.NeedRoot(t)
	root := must(t,
		file("a/.wh.gone", ""), // of a file or directory below
		file("b/.wh..wh..opq", ""), file("b/new", "1"),
		file(".wh.c", ""), file("c", "replaced"), // whiteout first, then a file: the file is enough
		file(".wh.d", ""), dir("d/"), file("d/x", "1"), // then a directory: it hides the one below
		dir("e/"), file(".wh.e", ""), // the other way round: the same
		file("f", "stays"), file(".wh.f", ""),
		file(".wh.g", ""), file("g/h", "1"), // a parent that nobody describes
		file(".wh..wh.plnk/x", ""), file(".wh..wh.aufs", ""), // AUFS's own
		file("j", "file"), file("j/.wh.k", ""), file("j/.wh..wh..opq", ""), // the file hides it all
		file("i", "file"), dir("i/"), // what was a file hides, and so does the directory
	)
	if !isWhiteout(t, root, "a/gone") {
		t.Error("a/gone is no whiteout")
	}
	for name, opaque := range map[string]bool{"a": false, "b": true, "d": true, "e": true, "g": true, "i": true} {
		if isOpaque(root, name) != opaque {
			t.Errorf("%s opaque: %v, want %v", name, !opaque, opaque)
		}
	}
	want(t, root, "b/new", "1")
	want(t, root, "c", "replaced")
	want(t, root, "d/x", "1")
	want(t, root, "f", "stays")
	want(t, root, "g/h", "1")
	entries, err := os.ReadDir(root)
	if err != nil || len(entries) != 9 {
		t.Errorf("entries %v, %v; want a to g, i and j", entries, err)
	}
	root = must(t, file(".wh..wh..opq", ""))
	if !isOpaque(root, ".") {
		t.Error("the root is not opaque")
	}
}

// TestOverlayOfUnpackedLayersShowsTheImage lets the kernel say whether the form is right.
func TestOverlayOfUnpackedLayersShowsTheImage(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedFeature(t, testenv.Overlay)
	lower := must(t, file("keep", "1"), file("gone", "1"), file("d/old", "1"), file("etc/passwd", "root:x:0:0\n"))
	upper := must(t, file(".wh.gone", ""), file("d/.wh..wh..opq", ""), file("d/new", "2"))
	mnt := t.TempDir()
	if err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY, "lowerdir="+upper+":"+lower); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(mnt, 0)
	want(t, mnt, "keep", "1")
	want(t, mnt, "d/new", "2")
	for _, name := range []string{"gone", "d/old"} {
		if _, err := os.Lstat(filepath.Join(mnt, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there: %v", name, err)
		}
		if _, err := layer.Find([]string{upper, lower}, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Find sees %s: %v", name, err)
		}
	}
}

func TestLayerCannotClimbOut(t *testing.T) {
	cases := map[string]struct {
		entries []entry
		word    string
	}{
		"dot dot":              {[]entry{file("../evil", "x")}, "climbs out"},
		"dot dot inside":       {[]entry{file("a/../../evil", "x")}, "climbs out"},
		"absolute dot dot":     {[]entry{file("/../evil", "x")}, "climbs out"},
		"directory":            {[]entry{dir("../")}, "climbs out"},
		"through a link":       {[]entry{symlink("l", "../.."), file("l/evil", "x")}, "climbs out"},
		"through two links":    {[]entry{symlink("l", "."), symlink("l/m", "l/.."), file("l/m/evil", "x")}, "climbs out"},
		"link loop":            {[]entry{symlink("l", "m"), symlink("m", "l"), file("l/evil", "x")}, "symbolic links"},
		"hard link":            {[]entry{hardlink("l", "../../../etc/passwd")}, "climbs out"},
		"hard link by a link":  {[]entry{symlink("l", "../.."), hardlink("x", "l/a")}, "climbs out"},
		"hard link to nothing": {[]entry{hardlink("l", "/etc/passwd")}, "not in this layer"},
		"hard link to root":    {[]entry{hardlink("l", "/")}, "root"},
		"hard link to a dir":   {[]entry{dir("d"), hardlink("l", "d")}, "directory"},
		"hard link to itself":  {[]entry{file("f", ""), hardlink("f", "./f")}, "itself"},
		"whiteout of dot dot":  {[]entry{file(".wh...", "")}, "whiteout"},
		"whiteout of nothing":  {[]entry{file("d/.wh.", "")}, "whiteout"},
		"in a whiteout":        {[]entry{file(".wh.d/f", "")}, "whiteout"},
		"below a file":         {[]entry{file("f", ""), file("f/g", "")}, "not a directory"},
		"root as a file":       {[]entry{{Header: tar.Header{Name: "./", Typeflag: tar.TypeSymlink, Linkname: "/"}}}, "root"},
		"overlay whiteout":     {[]entry{{Header: tar.Header{Name: "dev", Typeflag: tar.TypeChar}}}, "0/0"},
		"overlay attribute":    {[]entry{{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"}}}}, "trusted.overlay.redirect"},
		"user overlay":         {[]entry{{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, PAXRecords: map[string]string{"SCHILY.xattr.user.overlay.opaque": "y"}}}}, "user.overlay.opaque"},
		"empty link":           {[]entry{symlink("l", "")}, "without a target"},
		"long part":            {[]entry{file(strings.Repeat("n", 256), "")}, "limit of 255"},
		"long name":            {[]entry{file(strings.Repeat("nn/", 1400)+"f", "")}, "limit of 4095"},
		"deep name":            {[]entry{file(strings.Repeat("n/", 300)+"f", "")}, "limit of 255"},
		"long target":          {[]entry{symlink("l", strings.Repeat("n", 5000))}, "limit of 4095"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, pack(t, c.entries...), layer.Limits{})
			if _, ok := errors.AsType[*layer.BadError](err); !ok || !strings.Contains(err.Error(), c.word) {
				t.Errorf("error %v, want a BadError that says %q", err, c.word)
			}
		})
	}
}

func TestLinksInsideTheLayerAreFollowedInside(t *testing.T) {
	root := must(t, dir("usr/lib/"), symlink("lib", "usr/lib"), file("lib/a", "1"),
		symlink("abs", "/usr"), file("abs/lib/b", "2"), symlink("etc", "/etc2"), file("etc/passwd", "mine"),
		file("/absolute/name", "3"), file("./dotted/./name", "4"))
	want(t, root, "usr/lib/a", "1")
	want(t, root, "usr/lib/b", "2")
	want(t, root, "etc2/passwd", "mine")
	want(t, root, "absolute/name", "3")
	want(t, root, "dotted/name", "4")
}

func TestLaterEntryReplacesAnEarlierOne(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	os.WriteFile(outside, []byte("safe"), 0o600)
	root := must(t, file("f", "old"), hardlink("g", "f"), file("f", "new"), // the link keeps the old bytes
		symlink("s", outside), file("s", "file"), // written in its place, not through it
		dir("d/"), file("d/x", ""), symlink("d", "e"), file("d/y", "1"),
		dir("keep/"), file("keep/x", "1"), dir("keep/"))
	want(t, root, "f", "new")
	want(t, root, "g", "old")
	want(t, root, "s", "file")
	want(t, root, "e/y", "1")
	want(t, root, "keep/x", "1")
	if data, err := os.ReadFile(outside); string(data) != "safe" {
		t.Errorf("the file outside is %q, %v", data, err)
	}
}

func TestDevicesAreLeftOutWithANote(t *testing.T) {
	root, res, err := unpack(t, pack(t, entry{Header: tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Devmajor: 8}}, file("f", "1")), layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(root, "dev/sda")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the device is there: %v", err)
	}
	if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "dev/sda") {
		t.Errorf("notes %q", res.Notes)
	}
}

func TestSparseAndLongNamesAreRight(t *testing.T) {
	long := strings.Repeat("long/", 40) + strings.Repeat("n", 200)
	body := strings.Repeat("\x00", 1<<20) + "end" + strings.Repeat("\x00", 1<<20)
	gnu := file(long+"g", "gnu")
	gnu.Format = tar.FormatGNU
	pax := file(long+"p", "pax")
	pax.Format = tar.FormatPAX
	root := must(t, gnu, pax, file("holes", body), file("zeros", body[:1<<20]))
	want(t, root, long+"g", "gnu")
	want(t, root, long+"p", "pax")
	want(t, root, "holes", body)
	want(t, root, "zeros", body[:1<<20])
	if _, st := stat(t, root, "holes"); st.Blocks*512 > 512<<10 {
		t.Errorf("holes takes %d bytes on disk", st.Blocks*512)
	}
}

// TestSparseFilesOfGNUTarAreRight reads what the real program writes.
func TestSparseFilesOfGNUTarAreRight(t *testing.T) {
	gnutar := testenv.NeedTool(t, "tar")
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("head"), 0)
	f.WriteAt([]byte("tail"), 4<<20)
	f.Truncate(8 << 20)
	f.Close()
	body, err := os.ReadFile(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		data := run(t, gnutar, "-C", src, "--sparse", "--format="+format, "-cf", "-", "sparse")
		if len(data) > 1<<20 {
			t.Fatalf("%s: the tar of %d bytes is not sparse", format, len(data))
		}
		root, res, err := unpack(t, data, layer.Limits{})
		if err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		want(t, root, "sparse", string(body))
		if res.DiffID != content.Digest(data) {
			t.Errorf("%s: diffID %s", format, res.DiffID)
		}
	}
}

func TestDamagedLayerIsRefused(t *testing.T) {
	plain := pack(t, file("f", strings.Repeat("hello", 10_000)))
	var gz bytes.Buffer
	g, _ := gzip.NewWriterLevel(&gz, gzip.NoCompression)
	g.Write(plain)
	g.Close()
	flipped := slices.Clone(gz.Bytes())
	flipped[len(flipped)/2] ^= 1
	header := slices.Clone(plain)
	header[0] ^= 1
	for name, c := range map[string]struct {
		data []byte
		word string
	}{
		"truncated gzip": {gz.Bytes()[:gz.Len()-100], "ends in the middle"},
		"truncated tar":  {plain[:2000], "ends in the middle"},
		"bit flipped":    {flipped, "checksum"},
		"bad header":     {header, "tar"},
		"no tar":         {bytes.Repeat([]byte("no tar "), 1000), "tar"},
		"bzip2":          {[]byte("BZh91AY&SY"), "bzip2"},
		"xz":             {[]byte("\xfd7zXZ\x00\x00\x04"), "xz"},
		"gzip of no tar": {[]byte("\x1f\x8b\x08garbage"), ""},
		"bad zstd":       {[]byte("\x28\xb5\x2f\xfdgarbage"), ""},
		"unknown type":   {pack(t, entry{Header: tar.Header{Name: "x", Typeflag: 'Z'}}), "unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, c.data, layer.Limits{})
			if _, ok := errors.AsType[*layer.BadError](err); !ok || !strings.Contains(err.Error(), c.word) {
				t.Errorf("error %v, want a BadError that says %q", err, c.word)
			}
		})
	}
}

func TestBombIsRefusedWithTheLimit(t *testing.T) {
	gz := func(data []byte) []byte {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Write(data)
		w.Close()
		return buf.Bytes()
	}
	big := file("big", strings.Repeat("\x00", 4<<20))
	many := make([]entry, 20)
	for i := range many {
		many[i] = file(strings.Repeat("d/", i+1), "")
		many[i].Typeflag = tar.TypeDir
	}
	for name, c := range map[string]struct {
		data []byte
		lim  layer.Limits
		word string
	}{
		"bytes":       {gz(pack(t, big)), layer.Limits{Bytes: 1 << 20}, "1048576"},
		"plain":       {pack(t, big), layer.Limits{Bytes: 1 << 20}, "1048576"},
		"after":       {append(pack(t, file("f", "")), make([]byte, 4<<20)...), layer.Limits{Bytes: 1 << 20}, "1048576"},
		"ratio":       {gz(pack(t, big)), layer.Limits{Ratio: 50, Free: 1 << 20}, "50 to 1"},
		"entries":     {pack(t, many...), layer.Limits{Entries: 10}, "limit of 10 entries"},
		"directories": {pack(t, file(strings.Repeat("d/", 20)+"f", "")), layer.Limits{Entries: 10}, "limit of 10 directories"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, c.data, c.lim)
			if _, ok := errors.AsType[*layer.BadError](err); !ok || !strings.Contains(err.Error(), c.word) {
				t.Errorf("error %v, want a BadError that says %q", err, c.word)
			}
		})
	}
	t.Run("ratio is not looked at in small layers", func(t *testing.T) {
		if _, _, err := unpack(t, gz(pack(t, big)), layer.Limits{}); err != nil {
			t.Error(err)
		}
	})
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	_, err := layer.Unpack(ctx, bytes.NewReader(pack(t, file("f", ""))), t.TempDir(), layer.Limits{})
	if err == nil || err.Error() != "enough" {
		t.Errorf("error %v", err)
	}
}

func TestStoreKeepsLayersByDiffID(t *testing.T) {
	home := t.TempDir()
	s, err := layer.Open(home, layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	data := pack(t, file("f", "1"))
	id := content.Digest(data)
	if s.Has(id) {
		t.Error("there before it was unpacked")
	}
	info, err := s.Unpack(t.Context(), id, bytes.NewReader(data))
	if err != nil || info.Entries != 1 {
		t.Fatalf("info %+v, %v", info, err)
	}
	want(t, s.Dir(id), "f", "1")
	if _, err := s.Unpack(t.Context(), id, nil); err != nil {
		t.Errorf("a layer that is there was read: %v", err)
	}
	if s, err = layer.Open(home, layer.Limits{}); err != nil || !s.Has(id) {
		t.Errorf("gone after reopening: %v", err)
	}
	if ids, err := s.List(); err != nil || !slices.Equal(ids, []string{id}) {
		t.Errorf("list %v, %v", ids, err)
	}
	if err := s.Delete(t.Context(), id, func() bool { return true }); err != nil || !s.Has(id) {
		t.Errorf("a busy layer was removed: %v", err)
	}
	if err := s.Delete(t.Context(), id, func() bool { return false }); err != nil || s.Has(id) {
		t.Errorf("delete: %v", err)
	}
	if err := s.Delete(t.Context(), id, func() bool { return false }); err != nil {
		t.Errorf("second delete: %v", err)
	}
	other := content.Digest([]byte("other"))
	_, err = s.Unpack(t.Context(), other, bytes.NewReader(data))
	if _, ok := errors.AsType[*layer.BadError](err); !ok || !strings.Contains(err.Error(), id) {
		t.Errorf("wrong diffID: %v", err)
	}
	if _, err := s.Unpack(t.Context(), "sha256:x", nil); err == nil {
		t.Error("a bad diffID was taken")
	}
	if left, err := os.ReadDir(filepath.Join(home, "tmp")); len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestCrashLeavesAWholeLayerOrNone ends the life of the store at each operation.
func TestCrashLeavesAWholeLayerOrNone(t *testing.T) {
	data := pack(t, file("d/f", "1"))
	id := content.Digest(data)
	for n := 0; ; n++ {
		if n > 50 {
			t.Fatal("the scenario never ends")
		}
		home, count := t.TempDir(), 0
		hook := func(content.Op, string) error {
			if count++; count > n {
				return errors.New("power cut")
			}
			return nil
		}
		s, err := layer.OpenHooked(home, layer.Limits{}, hook)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Unpack(t.Context(), id, bytes.NewReader(data))
		s.Delete(t.Context(), content.Digest(nil), func() bool { return false })
		// What the dead process was doing in tmp.
		os.MkdirAll(filepath.Join(home, "tmp", "unpack-1", "fs"), 0o755)
		again, oerr := layer.Open(home, layer.Limits{})
		if oerr != nil {
			t.Fatal(oerr)
		}
		if err == nil && !again.Has(id) {
			t.Fatalf("crash at operation %d: the layer that was promised is not there", n)
		}
		if again.Has(id) {
			want(t, again.Dir(id), "d/f", "1")
		}
		if left, _ := os.ReadDir(filepath.Join(home, "tmp")); len(left) > 0 {
			t.Errorf("crash at operation %d: left %v", n, left)
		}
		if _, err := again.Unpack(t.Context(), id, bytes.NewReader(data)); err != nil {
			t.Errorf("crash at operation %d, then again: %v", n, err)
		}
		if count <= n {
			break
		}
	}
}

func TestFindSeesWhatAProcessWouldSee(t *testing.T) {
	testenv.NeedRoot(t)
	lower := must(t, file("etc/passwd", "lower"), file("etc/group", "group"), file("gone/f", "1"), file("hidden/f", "1"), symlink("out", "../../../../etc/passwd"),
		symlink("abs", "/etc/group"), symlink("loop", "loop"), dir("dir"), file("cut/f", "1"))
	upper := must(t, file("etc/passwd", "upper"), file(".wh.gone", ""), file("hidden/.wh..wh..opq", ""), symlink("e", "etc"), file("cut", "a file"))
	layers := []string{upper, lower}
	for name, body := range map[string]string{"etc/passwd": "upper", "/etc/group": "group", "e/group": "group", "abs": "group", "out": "upper", "../../etc/passwd": "upper", "cut": "a file"} {
		f, err := layer.Find(layers, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := io.ReadAll(f)
		f.Close()
		if string(data) != body {
			t.Errorf("%s is %q, %v; want %q", name, data, err, body)
		}
	}
	for _, name := range []string{"gone/f", "hidden/f", "cut/f", "none", "dir", "", "etc/passwd/x"} {
		if _, err := layer.Find(layers, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v, want not there", name, err)
		}
	}
	if _, err := layer.Find(layers, "loop"); err == nil {
		t.Error("a loop of links was followed to its end")
	}
}
