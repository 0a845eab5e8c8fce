package main

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"hob/client"
	"hob/faas"
)

const (
	defaultServer = "http://127.0.0.1:8080"
	defaultData   = "/var/lib/hob"
	socketName    = "hob.sock" // in the data directory, for root
)

// newServerTopic tells how address finds the server.
func newServerTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "server",
		Short: "how the server is found",
		Long: `The commands speak to the first of these servers:

  1. --server URL
  2. HOB_SERVER in the environment
  3. the current context ("hob context use NAME")
  4. for root: the Unix socket ` + socketName + ` in the data directory of this machine
     (HOB_DATA, else ` + defaultData + `), if it is there
  5. ` + defaultServer + `

An address is http://HOST:PORT, https://HOST, or unix:///PATH for a socket.

A server with a key for tokens, or a proxy in front of one, is told who asks by a
token ("hob token" makes those of a server), the first of these:

  1. --token TOKEN, or --token-file FILE
  2. HOB_TOKEN in the environment
  3. the one that is kept with the current context, if the server is that context's

No command prints it. Over http to another machine it can be read on the way, and
a note on standard error says so. A server takes those of its own key off calls;
of another, that is for the proxy, or the function reads it among the headers.`,
	}
}

// address is where the server is, and the token that its context has.
func (c *cli) address() (address, token string, err error) {
	if c.server != "" {
		return c.server, "", nil
	}
	if s := c.Getenv("HOB_SERVER"); s != "" {
		return s, "", nil
	}
	contexts, err := c.readContexts()
	if err != nil {
		return "", "", err
	}
	if contexts.Current != "" {
		current, err := contexts.get(contexts.Current)
		return current.Server, current.Token, err
	}
	if c.Root {
		data := c.Getenv("HOB_DATA")
		if data == "" {
			data = defaultData
		}
		socket := filepath.Join(data, socketName)
		if info, err := os.Stat(socket); err == nil && info.Mode()&os.ModeSocket != 0 {
			if socket, err = filepath.Abs(socket); err == nil {
				return "unix://" + socket, "", nil
			}
		}
	}
	return defaultServer, "", nil
}

// givenToken is the token that the command line names; "" is none.
func (c *cli) givenToken() (string, error) {
	if c.tokenFile == "" {
		return c.token, nil
	}
	if c.token != "" {
		return "", faas.Errorf(faas.Invalid, "--token and --token-file exclude each other")
	}
	in := c.Stdin
	if c.tokenFile != "-" {
		f, err := os.Open(c.tokenFile)
		if err != nil {
			return "", faas.Errorf(faas.NotFound, "read the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxToken+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the token: %w", err)
	case len(b) > maxToken:
		return "", faas.Errorf(faas.Invalid, "read the token: it is over the limit of %v", faas.Bytes(maxToken))
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", faas.Errorf(faas.Invalid, "read the token: there is none in %s", c.tokenFile)
	}
	return token, nil
}

// maxToken is the most bytes of a token: more no server takes in a header.
const maxToken = 16 << 10

// client returns the client of the server that address finds, with the token that
// goes with it.
func (c *cli) client() (*client.Client, error) {
	address, kept, err := c.address()
	if err != nil {
		return nil, err
	}
	token, err := c.givenToken()
	if err != nil {
		return nil, err
	}
	token = cmp.Or(token, c.Getenv("HOB_TOKEN"), kept)
	c.warnOfToken(address, token)
	return client.New(address, client.WithToken(token))
}

// warnOfToken says that others can read the token on its way, if they can. A
// script that reads JSON is not disturbed.
func (c *cli) warnOfToken(address, token string) {
	u, err := url.Parse(address)
	if err != nil || token == "" || u.Scheme != "http" || c.json {
		return
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
		return
	}
	fmt.Fprintf(c.Stderr, "hob: note: the token goes to %s in the clear: whoever is on the way can read it; https is safe\n", printable(u.Host))
}
