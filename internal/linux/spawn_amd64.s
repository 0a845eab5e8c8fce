#include "textflag.h"

// func rawSpawn(clone *cloneArgs, size uintptr, first *op, st *status) int
//
// The child shares memory and stack pointer with its parent. It neither pushes
// nor calls: all it knows is in registers.
TEXT ·rawSpawn(SB),NOSPLIT,$0-40
	MOVQ	clone+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	first+16(FP), R12
	MOVQ	st+24(FP), R13
	MOVQ	$435, AX	// clone3
	SYSCALL
	TESTQ	AX, AX
	JZ	next
	MOVQ	AX, ret+32(FP)
	RET

next:	// R12: op, R13: status
	MOVQ	56(R12), BX	// flags
	TESTQ	$32, BX		// opEnd
	JNZ	end
	MOVQ	0(R12), AX
	MOVQ	8(R12), DI
	MOVQ	16(R12), SI
	MOVQ	24(R12), DX
	MOVQ	32(R12), R10
	MOVQ	40(R12), R8
	MOVQ	48(R12), R9
	TESTQ	$2, BX		// opUse
	JZ	call
	MOVQ	0(R13), DI
call:
	TESTQ	$64, BX		// opWait
	JNZ	wait
	SYSCALL
	TESTQ	$1, BX		// opSave
	JZ	check
	MOVQ	AX, 0(R13)
check:
	TESTQ	$16, BX		// opMustZero
	JZ	errno
	TESTQ	AX, AX
	JNZ	fail
errno:
	CMPQ	AX, $0xfffffffffffff001
	JCS	done		// below -4095 unsigned: no error
	TESTQ	$4, BX		// opIgnore
	JNZ	done
	TESTQ	$8, BX		// opNote
	JZ	fail
	CMPQ	8(R13), $0
	JEQ	note
	CMPQ	AX, $-2		// ENOENT tells less than what is noted
	JEQ	done
note:
	MOVQ	AX, 8(R13)
done:
	ADDQ	$64, R12
	JMP	next

wait:	// DI: gate
	MOVL	$1, 4(DI)	// arrived
	SYSCALL			// keeps DI
	CMPL	0(DI), $0	// open
	JEQ	next		// not yet: again
	MOVL	$1, 8(DI)	// passed
	MOVQ	16(DI), R12
	JMP	next

end:
	MOVQ	8(R13), AX
fail:
	MOVQ	AX, 16(R13)
	MOVQ	R12, 24(R13)
exit:
	MOVQ	$231, AX	// exit_group
	MOVQ	$127, DI
	SYSCALL
	JMP	exit
