package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hob/client"
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

An address is http://HOST:PORT, https://HOST, or unix:///PATH for a socket.`,
	}
}

// address is where the server is, and what says so.
func (c *cli) address() (address, from string, err error) {
	if c.server != "" {
		return c.server, "--server", nil
	}
	if s := c.Getenv("HOB_SERVER"); s != "" {
		return s, "HOB_SERVER", nil
	}
	contexts, err := c.readContexts()
	if err != nil {
		return "", "", err
	}
	if contexts.Current != "" {
		current, err := contexts.get(contexts.Current)
		return current.Server, "context " + contexts.Current, err
	}
	if c.Root {
		data := c.Getenv("HOB_DATA")
		if data == "" {
			data = defaultData
		}
		socket := filepath.Join(data, socketName)
		if info, err := os.Stat(socket); err == nil && info.Mode()&os.ModeSocket != 0 {
			if socket, err = filepath.Abs(socket); err == nil {
				return "unix://" + socket, "the data directory " + data, nil
			}
		}
	}
	return defaultServer, "default", nil
}

// client returns the client of the server that address finds.
func (c *cli) client() (*client.Client, error) {
	address, _, err := c.address()
	if err != nil {
		return nil, err
	}
	return client.New(address)
}
