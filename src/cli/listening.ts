/** Where a server of ours listens: the options, the check that comes first, and what may go wrong. */
import { type Command, InvalidArgumentError } from 'commander'
import { UserError } from '../base/errors.ts'
import { collect, wholeNumber } from './options.ts'

export interface ListenFlags {
  host: string
  port: number
  origin?: string[]
  drainLimit: number
}

export function withListenOptions(command: Command, defaultPort: number): Command {
  return command
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--port <n>', 'port to listen on; 0 takes a free one', wholeNumber(0, 65535), defaultPort)
    .option('--origin <url>', 'web pages of this origin may ask (repeatable)', origins)
    .option(
      '--drain-limit <s>',
      'seconds that running requests get to finish on shutdown',
      wholeNumber(0, 86400),
      30,
    )
}

/** Browsers send an origin letter for letter as URL writes it, so nothing else would ever match. */
function origins(text: string, before?: string[]): string[] {
  const isOpaque = text === '*' || text === 'null'
  const origin = URL.canParse(text) ? new URL(text).origin : undefined
  const isOwnScheme = /^[a-z][a-z0-9+.-]*:\/\/[^/?#@\s]+$/.test(text)
  if (isOpaque || text === origin || (isOwnScheme && origin === 'null')) return collect(text, before)
  const meant = origin === undefined || origin === 'null' ? '' : ` Did you mean ${origin}?`
  throw new InvalidArgumentError(
    `It takes an origin, scheme://host or scheme://host:port, such as https://chat.example.org, or * for all.${meant}`,
  )
}

/** Whether only this machine reaches it. */
export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host.startsWith('127.')
}

/** A port that others can reach needs keys: everybody there could use the machine otherwise. `how` sets one. */
export function refuseOpenDoor(host: string, keys: readonly string[], how: string): void {
  if (isLoopback(host) || keys.length > 0) return
  throw new UserError(`--host ${host} can be reached from other machines, and no API key is set.`, {
    failure: 'usage',
    fix: `${how}, or listen on 127.0.0.1.`,
  })
}

const otherPort = 'Choose another with --port N; --port 0 takes a free one.'
const otherHost =
  'Give --host an address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 for all that it has.'
const listenRefusals: Readonly<Record<string, { why: string; fix: string }>> = {
  EADDRINUSE: { why: 'another program listens there', fix: otherPort },
  EACCES: { why: 'it needs more rights', fix: otherPort },
  EADDRNOTAVAIL: { why: 'this machine has no such address', fix: otherHost },
  ENOTFOUND: { why: 'no machine is known by that name', fix: otherHost },
}

/** Listens, or says why it cannot. */
export async function listen(
  server: { listen(port: number, host: string): Promise<string> },
  flags: { host: string; port: number },
): Promise<string> {
  try {
    return await server.listen(flags.port, flags.host)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const refusal = listenRefusals[code ?? '']
    if (refusal === undefined && code === undefined) throw error
    const { why, fix } = refusal ?? { why: code, fix: otherPort }
    throw new UserError(`${flags.host}:${flags.port} cannot be used: ${why}.`, { cause: error, fix })
  }
}
