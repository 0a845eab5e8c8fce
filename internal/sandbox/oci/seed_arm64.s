#include "textflag.h"

// The seed: see seed.go. It calls nothing, and knows no address but seedBase.
TEXT ·seed(SB),NOSPLIT|NOFRAME,$0
	MOVD	$0x10000000, R19 // seedBase
	MOVD	R19, R20         // where the next byte goes
	ADD	$8, R19, R21     // end of what is known to come
more:
	MOVD	$63, R8          // read
	MOVD	$0, R0
	MOVD	R20, R1
	SUB	R20, R21, R2
	SVC
	CMP	$0, R0
	BLE	quit
	ADD	R0, R20
	CMP	R21, R20
	BLO	more
	MOVD	0(R19), R21
	CMP	R21, R20
	BLO	more

	MOVD	$57, R8          // close
	MOVD	$4, R0
	SVC
	MOVD	$25, R8          // fcntl
	MOVD	$3, R0
	MOVD	$2, R1           // F_SETFD
	MOVD	$1, R2           // FD_CLOEXEC
	SVC

	ADD	$24, R19, R22    // limits, each an address and its number
limits:
	MOVD	0(R22), R2
	ADD	$8, R22
	CBZ	R2, paths
	MOVD	0(R22), R1
	ADD	$8, R22
	MOVD	$261, R8         // prlimit64
	MOVD	$0, R0
	MOVD	$0, R3
	SVC
	MOVD	R0, R23
	CBNZ	R0, report
	B	limits
paths:
	MOVD	$-2, R23         // -ENOENT
next:
	MOVD	0(R22), R0
	CBZ	R0, report
	ADD	$8, R22
	MOVD	8(R19), R1
	MOVD	16(R19), R2
	MOVD	$221, R8         // execve
	SVC
	CMN	$2, R0
	BEQ	next
	MOVD	R0, R23
	B	next
report:
	MOVD	R23, 0(R19)
	MOVD	$64, R8          // write
	MOVD	$3, R0
	MOVD	R19, R1
	MOVD	$8, R2
	SVC
quit:
	MOVD	$94, R8          // exit_group, with 0 at the end of the input
	SVC
	UNDEF

TEXT ·seedEnd(SB),NOSPLIT|NOFRAME,$0
	UNDEF

DATA	·seedFrom(SB)/8, $·seed(SB)
GLOBL	·seedFrom(SB), RODATA, $8
DATA	·seedTo(SB)/8, $·seedEnd(SB)
GLOBL	·seedTo(SB), RODATA, $8
