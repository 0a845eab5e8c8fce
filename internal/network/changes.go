package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// changes tells when somebody changed the packet filter of a network.
type changes struct {
	conn *netlink.Conn
	seen chan struct{} // has one for all that nobody has looked at yet
}

// newChanges listens in the calling thread's network.
func newChanges() (*changes, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("listen for changes of the packet filter: %w", err)
	}
	return &changes{conn, make(chan struct{}, 1)}, nil
}

// read tells until ctx is done.
func (c *changes) read(ctx context.Context) {
	defer c.conn.Close()
	defer context.AfterFunc(ctx, func() { c.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := c.conn.Receive()
		if ctx.Err() != nil || err != nil && !errors.Is(err, unix.ENOBUFS) { // which are more than we could read
			return
		}
		const transaction = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWGEN // ends each
		if err == nil && messages[len(messages)-1].Header.Type != transaction {
			continue
		}
		select {
		case c.seen <- struct{}{}:
		default:
		}
	}
}
