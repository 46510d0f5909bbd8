import type { Command } from 'commander'
import { createSignInCode } from '../../api/control/people.ts'
import { type NounFlags, onService, type Session } from '../noun.ts'
import { note } from '../terminal.ts'

export function consoleCommand(program: Command): void {
  onService(
    program
      .command('console')
      .description('print an address of the page of the service that signs a browser in as you, once'),
    runConsole,
  )
}

async function runConsole({ client, out }: Session, _: NounFlags): Promise<void> {
  const url = await signInAddress(client)
  out.one({ id: url, url }, { ADDRESS: (it) => it.url })
  note('Open it in a browser within five minutes; it works once.')
}

/** The code stands behind `#`, which browsers send to nobody and no proxy logs. */
export async function signInAddress(client: Session['client']): Promise<string> {
  const { code } = await client.call(createSignInCode, {})
  return `${client.url}/sign-in#${code}`
}
