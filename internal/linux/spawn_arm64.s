#include "textflag.h"

// func rawSpawn(clone *cloneArgs, size uintptr, first *op, st *status) int
//
// The child shares memory and stack pointer with its parent. It neither pushes
// nor calls: all it knows is in registers.
TEXT ·rawSpawn(SB),NOSPLIT,$0-40
	MOVD	clone+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	first+16(FP), R19
	MOVD	st+24(FP), R20
	MOVD	$435, R8	// clone3
	SVC
	CBZ	R0, next
	MOVD	R0, ret+32(FP)
	RET

next:	// R19: op, R20: status
	MOVD	56(R19), R21	// flags
	TBNZ	$5, R21, end	// opEnd
	MOVD	0(R19), R8
	MOVD	8(R19), R0
	MOVD	16(R19), R1
	MOVD	24(R19), R2
	MOVD	32(R19), R3
	MOVD	40(R19), R4
	MOVD	48(R19), R5
	TBZ	$1, R21, call	// opUse
	MOVD	0(R20), R0
call:
	TBNZ	$6, R21, wait	// opWait
	SVC
	TBZ	$0, R21, check	// opSave
	MOVD	R0, 0(R20)
check:
	TBZ	$4, R21, errno	// opMustZero
	CBNZ	R0, fail
errno:
	CMN	$4095, R0
	BCC	done		// below -4095 unsigned: no error
	TBNZ	$2, R21, done	// opIgnore
	TBZ	$3, R21, fail	// opNote
	MOVD	8(R20), R22
	CBZ	R22, note
	CMN	$2, R0		// ENOENT tells less than what is noted
	BEQ	done
note:
	MOVD	R0, 8(R20)
done:
	ADD	$64, R19
	B	next

wait:	// R0: gate
	MOVD	R0, R22
	MOVD	$1, R23
	MOVW	R23, 4(R22)	// arrived
	SVC
	LDARW	(R22), R24	// open; what was written before it is seen from here on
	CBZW	R24, next	// not yet: again
	MOVW	R23, 8(R22)	// passed
	MOVD	16(R22), R19
	B	next

end:
	MOVD	8(R20), R0
fail:
	MOVD	R0, 16(R20)
	MOVD	R19, 24(R20)
exit:
	MOVD	$94, R8		// exit_group
	MOVD	$127, R0
	SVC
	B	exit
