# The guest that tries an accelerator out: a boot sector that does what a kernel cannot live without.
#
# real mode -> long mode with paging -> 2^28 rounds of arithmetic -> 20000 address space switches
# -> three timer interrupts -> one line on the serial port -> ACPI power off.
#
# Hardware virtualisation is through in a fraction of a second. An accelerator that opens but does not run
# guests hangs in it or takes minutes.
#
#   as --64 accelerator_probe.S -o probe.o
#   ld -m elf_x86_64 -Ttext 0x7c00 --oformat binary probe.o -o probe.img
.code16
.globl _start
_start:
  cli
  xorw %ax,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movw $0x7c00,%sp
  # page tables at 0x1000 (PML4), 0x2000 (PDPT), 0x3000 (PD): identity map of the first 2 MiB
  movw $0x1000,%di
  xorl %eax,%eax
  movw $3072,%cx
  cld
  rep stosl
  movw $0x2003,0x1000
  movw $0x3003,0x2000
  movw $0x0083,0x3000
  movl %cr4,%eax
  orb $0x20,%al
  movl %eax,%cr4
  movl $0x1000,%eax
  movl %eax,%cr3
  movl $0xc0000080,%ecx
  rdmsr
  orw $0x0100,%ax
  wrmsr
  lgdt gdtr
  movl %cr0,%eax
  orl $0x80000001,%eax
  movl %eax,%cr0
  ljmp $8,$long
.code64
long:
  movw $16,%ax
  movw %ax,%ds
  movw %ax,%es
  movw %ax,%ss
  movl $0x7c00,%esp
  # IDT at 0x4000: vector 0x20 = tick
  movl $0x4000,%edi
  xorl %eax,%eax
  movl $1024,%ecx
  rep stosl
  movl $0x4200,%edi
  movl $tick,%eax
  movw %ax,(%rdi)
  movl $0x8e000008,2(%rdi)
  shrl $16,%eax
  movw %ax,6(%rdi)
  lidt idtr
  # remap PIC to 0x20, mask all but IRQ0
  movb $0x11,%al
  outb %al,$0x20
  movb $0x20,%al
  outb %al,$0x21
  movb $4,%al
  outb %al,$0x21
  movb $1,%al
  outb %al,$0x21
  movb $0xfe,%al
  outb %al,$0x21
  movl $0x10000000,%ecx
5: addl %ecx,%ebx
  roll $3,%ebx
  decl %ecx
  jnz 5b
  movl $20000,%ecx
6: movq %cr3,%rax
  movq %rax,%cr3
  movl %ecx,0x5000
  decl %ecx
  jnz 6b
  xorl %ebx,%ebx
  sti
1: hlt
  cmpl $3,%ebx
  jb 1b
  cli
  movl $msg,%esi
  movw $0x3f8,%dx
2: lodsb
  testb %al,%al
  jz 3f
  outb %al,%dx
  jmp 2b
3: movw $0x604,%dx
  movw $0x2000,%ax
  outw %ax,%dx
4: hlt
  jmp 4b
tick:
  incl %ebx
  movb $0x20,%al
  outb %al,$0x20
  iretq
.balign 8
gdt: .quad 0, 0x00209a0000000000, 0x0000920000000000
gdtr: .word 23
 .long gdt
idtr: .word 0xfff
 .quad 0x4000
msg: .asciz "long mode, paging and timer work\r\n"
.org 510
.word 0xaa55
