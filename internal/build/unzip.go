package build

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"hob/faas"
)

// unzip writes what the archive at file, which messages call shown, holds into dir,
// an empty directory: at most maxBytes of contents and maxFiles names. Permissions
// and symbolic links are kept. Nothing is written if a name could lie outside, is
// there twice, or if something is encrypted.
func unzip(ctx context.Context, file, shown, dir string, maxBytes faas.Bytes, maxFiles int) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return faas.Errorf(faas.NotFound, "zip %s: no such file", shown)
	}
	if err != nil {
		return faas.Errorf(faas.Invalid, "zip %s: %w", shown, err)
	}
	defer f.Close()
	z, err := readZip(f, shown)
	if err != nil {
		return err
	}
	if err := checkZip(z, shown, maxBytes, maxFiles); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", shown, err)
	}
	defer root.Close()
	left := maxBytes
	for _, f := range z.File {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := unzipOne(ctx, root, f, &left); err != nil {
			if _, ok := errors.AsType[*faas.Error](err); ok || ctx.Err() != nil {
				return err
			}
			return faas.Errorf(faas.Invalid, "%s in %s: %w", f.Name, shown, err)
		}
	}
	return nil
}

// maxDirectory is the most that is read to know the names in a zip file: 320 bytes for
// each of 50,000. How many there are is not known before, whatever the file says.
const maxDirectory = 16 * faas.MB

// readZip reads the directory of a zip file.
func readZip(f *os.File, shown string) (*zip.Reader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, faas.Errorf(faas.Invalid, "zip %s: %w", shown, err)
	}
	in := &bounded{ReaderAt: f, left: int64(maxDirectory)}
	z, err := zip.NewReader(in, info.Size())
	switch {
	case in.left < 0:
		return nil, faas.Errorf(faas.TooLarge, "the directory of the zip file %s, with the names of its files, is over the limit of %v", shown, maxDirectory)
	case errors.Is(err, zip.ErrFormat):
		return nil, faas.Errorf(faas.Invalid, "%s is no zip file", shown)
	case err != nil && !errors.Is(err, zip.ErrInsecurePath):
		return nil, faas.Errorf(faas.Invalid, "zip %s: %w", shown, err)
	}
	in.left = math.MaxInt64
	return z, nil
}

// bounded fails when more than is left is read.
type bounded struct {
	io.ReaderAt
	left int64
}

func (b *bounded) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("the directory is too large")
	}
	return b.ReaderAt.ReadAt(p, off)
}

// checkZip looks at the list of what the archive says that it holds.
func checkZip(z *zip.Reader, shown string, maxBytes faas.Bytes, maxFiles int) error {
	if len(z.File) == 0 {
		return faas.Errorf(faas.Invalid, "%s holds nothing", shown)
	}
	if len(z.File) > maxFiles {
		return faas.Errorf(faas.TooLarge, "%s holds %d files, over the limit of %d", shown, len(z.File), maxFiles)
	}
	const encrypted = 1 // of the flags
	names := make(map[string]bool, len(z.File))
	var total uint64
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, "/")
		switch {
		case !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsAny(name, "\\\x00") || !utf8.ValidString(name):
			return faas.Errorf(faas.Invalid, "%s holds the name %q: names are relative, in UTF-8, and have no \"..\", \"//\" or backslash", shown, f.Name)
		case len(name) > maxPath:
			return faas.Errorf(faas.Invalid, "a name of %d bytes in %s is over the limit of %d", len(name), shown, maxPath)
		case names[name]:
			return faas.Errorf(faas.Invalid, "%s holds %s twice", shown, name)
		case f.Flags&encrypted != 0:
			return faas.Errorf(faas.Unsupported, "%s in %s is encrypted: make a zip file without a password", name, shown)
		case f.Method != zip.Store && f.Method != zip.Deflate:
			return faas.Errorf(faas.Unsupported, "%s in %s is compressed by method %d: only store and deflate are read", name, shown, f.Method)
		}
		names[name] = true
		if total += min(f.UncompressedSize64, 1<<40); total > uint64(maxBytes) {
			return faas.Errorf(faas.TooLarge, "%s unpacks to more than the limit of %v", shown, maxBytes)
		}
	}
	return nil
}

// unzipOne writes one file, directory or link below root and takes its size off left.
func unzipOne(ctx context.Context, root *os.Root, f *zip.File, left *faas.Bytes) error {
	name, mode := strings.TrimSuffix(f.Name, "/"), modeIn(f)
	if dir := path.Dir(name); dir != "." {
		if err := root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if mode.IsDir() {
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, mode.Perm()|0o700) // or its files could not be written, nor removed
	}
	if !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return faas.Errorf(faas.Invalid, "%s is %s: a function is made of files, directories and links only", f.Name, kindOfFile(mode))
	}
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if mode.Type() == fs.ModeSymlink {
		target, err := io.ReadAll(io.LimitReader(in, maxPath+1))
		if err == nil && (len(target) == 0 || len(target) > maxPath || strings.ContainsRune(string(target), 0)) {
			err = fmt.Errorf("its target is not a name of 1 to %d bytes", maxPath)
		}
		if err != nil {
			return err
		}
		return root.Symlink(string(target), name)
	}
	out, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(out, &limited{r: io.LimitReader(in, int64(*left)+1), left: 1<<63 - 1, ctx: ctx})
	if *left -= faas.Bytes(n); err == nil && *left < 0 {
		err = faas.Errorf(faas.TooLarge, "%s unpacks to more than it says", f.Name)
	}
	return errors.Join(err, out.Chmod(mode.Perm()|0o400), out.Close())
}

// modeIn is the mode of f: what the archive says, or, made by a system that knows no
// such modes, that of a program, for it may be one.
func modeIn(f *zip.File) fs.FileMode {
	const unix, darwin = 3, 19
	switch by := f.CreatorVersion >> 8; {
	case by == unix || by == darwin:
		mode := f.Mode()
		if strings.HasSuffix(f.Name, "/") {
			mode |= fs.ModeDir
		}
		if mode.Perm() == 0 { // written without attributes
			mode |= 0o755
		}
		return mode
	case strings.HasSuffix(f.Name, "/"):
		return fs.ModeDir | 0o755
	}
	return 0o755
}
