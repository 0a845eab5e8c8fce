package daemon

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"hob/faas"
)

// certificateAge is how long a certificate of our own making is good: nobody is
// there to renew it.
const certificateAge = 10 * 365 * 24 * time.Hour

// listenTLS opens the address of tls-listen; nil without one. What is accepted
// speaks HTTP/1.1 only: an upgraded connection of HTTP/2 could not be handed over.
func (d *Daemon) listenTLS() (net.Listener, error) {
	if d.cfg.TLSListen == "" {
		return nil, nil
	}
	pair := &keyPair{cert: d.cfg.TLSCert, key: d.cfg.TLSKey, log: d.log}
	if pair.cert == "" {
		var err error
		if pair.cert, pair.key, err = d.ownCertificate(); err != nil {
			return nil, err
		}
	}
	pair.seen = pair.stamps()
	if err := pair.read(); err != nil {
		return nil, err
	}
	l, err := listenTCP("tls-listen", d.cfg.TLSListen)
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: pair.get,
	}), nil
}

// listenTCP opens the address that a setting names.
func listenTCP(setting, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, faas.Errorf(faas.Conflict, "the address %s is taken by another program: stop that one, or give this one another --%s", addr, setting)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

// A keyPair is a certificate as its two files have it: when they change, the next
// connection gets the new one.
type keyPair struct {
	cert, key string // files
	log       *slog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate // guarded by mu, as all below
	seen   [2]stamp         // of the files when they were last read
}

// A stamp tells two contents of a file apart.
type stamp struct{ modified, size int64 }

func (p *keyPair) stamps() (all [2]stamp) {
	for i, name := range []string{p.cert, p.key} {
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{info.ModTime().UnixNano(), info.Size()}
		}
	}
	return all
}

// read reads both files. Precondition: p.mu is held, or nobody else knows p.
func (p *keyPair) read() error {
	pair, err := tls.LoadX509KeyPair(p.cert, p.key)
	if err != nil {
		return faas.Errorf(faas.Invalid, "certificate %s with key %s: %w", p.cert, p.key, err)
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		p.log.Warn("the certificate has expired, and clients will refuse it", "file", p.cert, "since", pair.Leaf.NotAfter)
	}
	p.loaded = &pair
	return nil
}

// get implements tls.Config.GetCertificate. Files that cannot be used, as in the
// middle of a change, leave the certificate what it was.
func (p *keyPair) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := p.stamps()
	p.mu.Lock()
	defer p.mu.Unlock()
	if now != p.seen {
		p.seen = now
		if err := p.read(); err != nil {
			p.log.Warn("the certificate stays what it was", "err", err)
		} else {
			p.log.Info("the certificate has changed", "file", p.cert, "sha256", fingerprint(p.loaded.Leaf.Raw))
		}
	}
	return p.loaded, nil
}

// only is the range of addresses that is this one.
func only(ip net.IP) *net.IPNet {
	if four := ip.To4(); four != nil {
		ip = four
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))}
}

// ownCertificate returns the files of a certificate that signs itself, which it
// makes if they are not there. It may stand in a list of authorities, as that of
// SSL_CERT_FILE: it can vouch for its own names only.
func (d *Daemon) ownCertificate() (cert, key string, err error) {
	dir := d.path("tls")
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	names, err := d.names()
	if err != nil {
		return "", "", err
	}
	data, err := os.ReadFile(cert)
	if err == nil {
		_, err = os.Stat(key)
	}
	switch {
	case err == nil:
		d.warnOfNames(cert, data, names)
		return cert, key, nil
	case !errors.Is(err, fs.ErrNotExist):
		return "", "", fmt.Errorf("the certificate of this node: %w", err)
	}

	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return "", "", fmt.Errorf("make a certificate: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"hob"}, CommonName: names[0]},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(certificateAge), // clocks differ
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
		PermittedDNSDomainsCritical: true,
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			template.PermittedIPRanges = append(template.PermittedIPRanges, only(ip))
		} else {
			template.DNSNames = append(template.DNSNames, name)
			template.PermittedDNSDomains = append(template.PermittedDNSDomains, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return "", "", fmt.Errorf("make a certificate for %s: %w", strings.Join(names, ", "), err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", fmt.Errorf("make a key: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", err
	}
	if err := writeSecret(key, "PRIVATE KEY", secret); err != nil {
		return "", "", err
	}
	if err := writeSecret(cert, "CERTIFICATE", der); err != nil {
		return "", "", err
	}
	d.log.Info("a certificate was made; clients trust it as SSL_CERT_FILE", "file", cert, "sha256", fingerprint(der), "names", strings.Join(names, " "))
	return cert, key, nil
}

// names are those that a client may know this node by.
func (d *Daemon) names() ([]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the name of this machine: %w", err)
	}
	listen, _, _ := net.SplitHostPort(d.cfg.TLSListen)
	if ip := net.ParseIP(listen); ip != nil && ip.IsUnspecified() {
		listen = ""
	}
	hyper := d.cfg.HyperHost
	if h, _, err := net.SplitHostPort(hyper); err == nil {
		hyper = h
	}
	var names []string
	for _, name := range slices.Concat([]string{"localhost", "127.0.0.1", "::1", host, listen, hyper}, d.cfg.Hosts) {
		name = strings.ToLower(strings.Trim(name, "[]"))
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// warnOfNames tells of names that an old certificate of ours lacks.
func (d *Daemon) warnOfNames(file string, data []byte, names []string) {
	block, _ := pem.Decode(data)
	if block == nil {
		return // reading it says what is wrong
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return
	}
	for _, name := range names {
		if leaf.VerifyHostname(name) != nil {
			d.log.Warn("the certificate lacks a name of this node: remove the file for a new one", "file", file, "name", name)
		}
	}
}

// writeSecret puts a file in place, whole and on the disk, for its owner alone.
func writeSecret(name, kind string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: data})
	if err = cmp.Or(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

// fingerprint is the SHA-256 of a certificate as browsers and openssl write it.
func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum[:]), " ", ":")
}
