package network

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// reports reads the packets that the filter refused from the kernel's packet log.
type reports struct {
	r    *Router
	conn *netlink.Conn
}

// Of the kernel's packet log (nfnetlink_log.h).
const (
	ulogPacket, ulogConfig                = unix.NFNL_SUBSYS_ULOG << 8, unix.NFNL_SUBSYS_ULOG<<8 | 1
	configCommand, configMode, configQue  = 1, 2, 5
	commandBind                           = 1
	copyPacket                            = 2
	attrInDevice, attrPayload, attrPrefix = 4, 9, 10
)

// newReports binds to the log of the calling thread's network.
func newReports(r *Router) (*reports, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("read the packet log: %w", err)
	}
	for _, a := range []netlink.Attribute{
		{Type: configCommand, Data: []byte{commandBind}},
		{Type: configMode, Data: []byte{0, 0, 0, 128, copyPacket, 0}},
		{Type: configQue, Data: []byte{0, 0, 0, 1}}, // each at once
	} {
		data, err := netlink.MarshalAttributes([]netlink.Attribute{a})
		if err != nil {
			conn.Close()
			return nil, err
		}
		_, err = conn.Execute(netlink.Message{
			Header: netlink.Header{Type: ulogConfig, Flags: netlink.Request | netlink.Acknowledge},
			Data:   append([]byte{unix.AF_UNSPEC, 0, 0, groupRefused}, data...),
		})
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("read the packet log: %w", err)
		}
	}
	return &reports{r, conn}, nil
}

// read reports until ctx is done.
func (p *reports) read(ctx context.Context) {
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() { p.conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := p.conn.Receive()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			continue // more than we could read: the count has them
		}
		for _, m := range messages {
			if m.Header.Type == ulogPacket && len(m.Data) > 4 {
				p.packet(m.Data[4:])
			}
		}
	}
}

// packet reports one.
func (p *reports) packet(data []byte) {
	attrs, err := netlink.UnmarshalAttributes(data)
	if err != nil {
		return
	}
	var dev int
	var limit string
	f := Refusal{Time: time.Now()}
	known := false
	for _, a := range attrs {
		switch {
		case a.Type == attrInDevice && len(a.Data) == 4:
			dev = int(binary.BigEndian.Uint32(a.Data))
		case a.Type == attrPayload:
			f.Protocol, f.To, known = parsePacket(a.Data)
		case a.Type == attrPrefix:
			limit = strings.TrimRight(string(a.Data), "\x00")
		}
	}
	p.r.mu.Lock()
	s := p.r.slots[dev]
	if s != nil {
		f.Owner, f.Name = s.owner, s.stoodFor[f.To.Addr()]
	}
	p.r.mu.Unlock()
	if s == nil || !known {
		return
	}
	if f.Name != "" && p.r.whyNeverByName(f.To.Addr()) != "" {
		f.Name = "" // a rule with the address may open it
	}
	switch limit {
	case overRate:
		f.Rate = p.r.cfg.Connections
	case overFlows:
		f.Flows = p.r.cfg.Flows
	case overAll:
		f.why = fmt.Sprintf("the functions of this node have the %d connections that they may have together", p.r.cfg.allFlows)
	default:
		f.why = p.r.whyNever(f.To.Addr())
	}
	p.r.tell(f)
}

// parsePacket reads where an IP packet wants to go. Of an IPv6 packet with
// extension headers it says the address only.
func parsePacket(b []byte) (protocol string, to netip.AddrPort, ok bool) {
	var proto byte
	var dst netip.Addr
	var rest []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		proto, dst = b[9], netip.AddrFrom4([4]byte(b[16:20]))
		rest = b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6:
		proto, dst, rest = b[6], netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	default:
		return "", to, false
	}
	var port uint16
	switch proto {
	case tcp:
		protocol = "tcp"
	case udp:
		protocol = "udp"
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		protocol = "icmp"
	default:
		protocol = fmt.Sprint(proto)
	}
	if (proto == tcp || proto == udp) && len(rest) >= 4 {
		port = binary.BigEndian.Uint16(rest[2:])
	}
	return protocol, netip.AddrPortFrom(dst, port), true
}

// Refusals is how many packets of slots policy and limits refused since the router was made.
func (r *Router) Refusals() (uint64, error) { return r.filter.refusals() }
