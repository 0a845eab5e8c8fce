package main

import (
	"bytes"
	"slices"
	"strconv"
)

// tinyLine is what the tiny program writes.
const tinyLine = "hello from a fresh container\n"

// tinyProgram returns the smallest program that answers: a write and an exit, for
// amd64 or arm64.
func tinyProgram(arch string) []byte {
	n := uint32(len(tinyLine))
	if arch == "arm64" {
		address := uint32(elfText + 9*4)
		movz := func(reg, v uint32) []byte { return le32(0xd2800000 | v<<5 | reg) }
		movk := func(reg, v uint32) []byte { return le32(0xf2a00000 | v<<5 | reg) } // into bits 16 to 31
		svc := le32(0xd4000001)
		return elf(183, slices.Concat(movz(0, 1), movz(1, address&0xffff), movk(1, address>>16), movz(2, n), movz(8, 64), svc, // write
			movz(0, 0), movz(8, 93), svc, // exit
			[]byte(tinyLine)))
	}
	return elf(62, slices.Concat(
		[]byte{0xb8}, le32(1), // mov eax, write
		[]byte{0xbf}, le32(1), // mov edi, 1
		[]byte{0xbe}, le32(elfText+32), // mov esi, the line
		[]byte{0xba}, le32(n), // mov edx, its length
		[]byte{0x0f, 0x05},     // syscall
		[]byte{0xb8}, le32(60), // mov eax, exit
		[]byte{0x31, 0xff, 0x0f, 0x05}, // xor edi, edi; syscall
		[]byte{0x90},                   // nop
		[]byte(tinyLine),
	))
}

// tinyHot is what the smallest hot function answers.
var tinyHot = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(len(tinyLine)) + "\r\n\r\n" + tinyLine

// tinyHotProgram returns the smallest hot function, for amd64: it takes whatever
// one read brings for a request, which holds for small ones.
func tinyHotProgram() []byte {
	code := slices.Concat(
		[]byte{0x31, 0xc0, 0x31, 0xff},                      // loop: xor eax, eax (read); xor edi, edi
		[]byte{0x48, 0x8d, 0xb4, 0x24}, le32(^uint32(4095)), // lea rsi, [rsp-4096]
		[]byte{0xba}, le32(4096), []byte{0x0f, 0x05}, // mov edx, 4096; syscall
		[]byte{0x85, 0xc0, 0x7e, 0x18},               // test eax, eax; jle exit
		[]byte{0xb8}, le32(1), []byte{0xbf}, le32(1), // mov eax, write; mov edi, 1
		[]byte{0xbe}, le32(elfText+64), []byte{0xba}, le32(uint32(len(tinyHot))), // mov esi, the answer; mov edx, its length
		[]byte{0x0f, 0x05}, []byte{0xeb, 0xd1}, // syscall; jmp loop
		[]byte{0xb8}, le32(60), []byte{0x31, 0xff, 0x0f, 0x05}, // exit: mov eax, exit; xor edi, edi; syscall
	)
	code = append(code, make([]byte, 64-len(code))...)
	return elf(62, append(code, tinyHot...))
}

const (
	elfBase = 0x400000
	elfHead = 64 + 56
	elfText = elfBase + elfHead // where code begins in memory
)

func le32(v uint32) []byte { return []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)} }

// elf returns an ELF file of a header and one segment, for a machine.
func elf(machine uint16, code []byte) []byte {
	size := uint64(elfHead + len(code))
	var f bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			switch v := v.(type) {
			case uint16:
				f.Write([]byte{byte(v), byte(v >> 8)})
			case uint32:
				f.Write(le32(v))
			case uint64:
				f.Write(le32(uint32(v)))
				f.Write(le32(uint32(v >> 32)))
			}
		}
	}
	f.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	put(uint16(2), machine, uint32(1), uint64(elfText), uint64(64), uint64(0), uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0))
	put(uint32(1), uint32(5), uint64(0), uint64(elfBase), uint64(elfBase), size, size, uint64(0x1000))
	f.Write(code)
	return f.Bytes()
}
