package kernel

import "github.com/faultline-vm/faultline/guest"

// The first serial port. Firecracker shows what is written to its data register
// on stdout, and puts into it what it reads from stdin.
const (
	serialPort            = 0x3f8 // data
	serialInterruptEnable = serialPort + 1
	serialLineStatus      = serialPort + 5

	receivedDataAvailable = 1 // in serialInterruptEnable
	dataReady             = 1 // in serialLineStatus
)

// hexMark stands, in a string to print, for sixteen digits of the next variable.
const hexMark = 1

// lookForByte jumps to found if the serial port holds a byte.
func (p *program) lookForByte(found string) {
	p.movImm(rdx, serialLineStatus)
	p.in()
	p.testImm(rax, dataReady)
	p.jumpIf(notEqual, found)
}

// answer calls report with the name of a kind.
func (p *program) answer(kind guest.Kind) {
	p.movLabel(rsi, "kind "+string(kind))
	p.call("report")
}

// report is the routine that prints the variables as one line of guest.Report;
// rsi is the name of its kind.
func (p *program) report() {
	p.label("report")
	p.movImm(rax, guest.IdentityAddress)
	p.load(rcx, mem{rax, 0})
	p.store(variable(varID), rcx)
	p.mov(rbp, rsi)
	p.movLabel(rsi, "prefix")
	p.call("print")
	p.mov(rsi, rbp)
	p.call("print")
	p.movLabel(rsi, "fields")
	p.mov(rdi, rbx)
	p.call("print")
	p.ret()

	mark := string(rune(hexMark))
	p.data("prefix", "faultline ")
	p.data("fields", " pass="+mark+" pages="+mark+" bad="+mark+" first="+mark+" seed="+mark+" id="+mark+"\n")
	for _, kind := range []guest.Kind{guest.Ready, guest.Pong, guest.Check, guest.Write, guest.Stop} {
		p.data("kind "+string(kind), string(kind))
	}
}

// print is the routine that writes the string at rsi; marks in it become the
// values at rdi. The transmitter is not asked whether it is free: Firecracker's
// always is, and each question would be an exit of the virtual machine.
func (p *program) print() {
	p.label("print")
	p.movImm(rdx, serialPort)
	p.label("print next")
	p.loadByte(rax, mem{rsi, 0})
	p.arithImm(add, rsi, 1)
	p.arithImm(compare, rax, hexMark)
	p.jumpIf(equal, "print value")
	p.jumpIf(below, "print end")
	p.out()
	p.jump("print next")

	p.label("print value")
	p.load(rcx, mem{rdi, 0})
	p.arithImm(add, rdi, 8)
	p.movImm(r8, 16)
	p.label("print digit")
	p.shift(rol, rcx, 4)
	p.mov(rax, rcx)
	p.arithImm(and, rax, 15)
	p.arithImm(add, rax, '0')
	p.arithImm(compare, rax, '9'+1)
	p.jumpIf(below, "print digit now")
	p.arithImm(add, rax, 'a'-'9'-1)
	p.label("print digit now")
	p.out()
	p.arithImm(sub, r8, 1)
	p.jumpIf(notEqual, "print digit")
	p.jump("print next")

	p.label("print end")
	p.ret()
}
