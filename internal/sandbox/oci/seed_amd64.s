#include "textflag.h"

// The seed: see seed.go. It calls nothing, and knows no address but seedBase.
TEXT ·seed(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$0x10000000, R13 // seedBase
	MOVQ	R13, BX          // where the next byte goes
	LEAQ	8(R13), R12      // end of what is known to come
more:
	XORL	AX, AX           // read
	XORL	DI, DI
	MOVQ	BX, SI
	MOVQ	R12, DX
	SUBQ	BX, DX
	SYSCALL
	CMPQ	AX, $0
	JLE	quit
	ADDQ	AX, BX
	CMPQ	BX, R12
	JCS	more
	MOVQ	0(R13), R12
	CMPQ	BX, R12
	JCS	more

	MOVL	$3, AX           // close
	MOVL	$4, DI
	SYSCALL
	MOVL	$72, AX          // fcntl
	MOVL	$3, DI
	MOVL	$2, SI           // F_SETFD
	MOVL	$1, DX           // FD_CLOEXEC
	SYSCALL

	LEAQ	24(R13), R14     // limits, each an address and its number
limits:
	MOVQ	0(R14), DX
	ADDQ	$8, R14
	TESTQ	DX, DX
	JEQ	paths
	MOVQ	0(R14), SI
	ADDQ	$8, R14
	MOVL	$302, AX         // prlimit64
	XORL	DI, DI
	XORL	R10, R10
	SYSCALL
	MOVQ	AX, R8
	TESTQ	AX, AX
	JNE	report
	JMP	limits
paths:
	MOVQ	$-2, R8          // -ENOENT; the kernel keeps R8
next:
	MOVQ	0(R14), DI
	TESTQ	DI, DI
	JEQ	report
	ADDQ	$8, R14
	MOVQ	8(R13), SI
	MOVQ	16(R13), DX
	MOVL	$59, AX          // execve
	SYSCALL
	CMPQ	AX, $-2
	JEQ	next
	MOVQ	AX, R8
	JMP	next
report:
	MOVQ	R8, 0(R13)
	MOVL	$1, AX           // write
	MOVL	$3, DI
	MOVQ	R13, SI
	MOVL	$8, DX
	SYSCALL
quit:
	MOVL	AX, DI           // 0 at the end of the input
	MOVL	$231, AX         // exit_group
	SYSCALL
	INT	$3

TEXT ·seedEnd(SB),NOSPLIT|NOFRAME,$0
	INT	$3

DATA	·seedFrom(SB)/8, $·seed(SB)
GLOBL	·seedFrom(SB), RODATA, $8
DATA	·seedTo(SB)/8, $·seedEnd(SB)
GLOBL	·seedTo(SB), RODATA, $8
