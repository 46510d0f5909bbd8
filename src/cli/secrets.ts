/** Secrets that a person or a pipeline gives: never as arguments, which every user of the machine can see. */
import { UserError } from '../base/errors.ts'

const secretBytesMax = 1 << 20

/** From a terminal without echo, or all of stdin without its last line break. */
export async function askSecret(prompt: string): Promise<string> {
  if (process.stdin.isTTY !== true) return (await allOfStdin()).replace(/\r?\n$/, '')
  process.stderr.write(`${prompt}: `)
  process.stdin.setRawMode(true)
  try {
    return await typedLine()
  } finally {
    process.stdin.setRawMode(false)
    process.stdin.pause()
    process.stderr.write('\n')
  }
}

async function allOfStdin(): Promise<string> {
  const pieces: Buffer[] = []
  let bytes = 0
  for await (const piece of process.stdin) {
    pieces.push(Buffer.from(piece))
    bytes += pieces.at(-1)!.length
    if (bytes <= secretBytesMax) continue
    throw new UserError(`What came by stdin is larger than ${secretBytesMax} bytes.`, { failure: 'usage' })
  }
  return Buffer.concat(pieces).toString('utf8')
}

function typedLine(): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    const onData = (piece: Buffer) => {
      for (const character of piece.toString('utf8')) {
        if (character === '\r' || character === '\n') return finish(() => resolve(text))
        if (character === '\u0003')
          return finish(() => reject(new UserError('Stopped.', { failure: 'interrupted' })))
        text = character === '\u007f' || character === '\b' ? text.slice(0, -1) : text + character
      }
    }
    const finish = (end: () => void) => {
      process.stdin.off('data', onData)
      end()
    }
    process.stdin.on('data', onData)
  })
}

/** Six digits are of an authenticator app; anything else is a recovery code. */
export function codesGiven(typed: string): { code: string } | { recovery_code: string } {
  const text = typed.trim()
  return /^\d{6}$/.test(text) ? { code: text } : { recovery_code: text }
}
