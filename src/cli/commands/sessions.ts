import type { Command } from 'commander'
import { endSession, listSessions } from '../../api/control/people.ts'
import { completeWith, meant, type NounFlags, onService, type Session } from '../noun.ts'
import { timeText } from '../output.ts'
import { note } from '../terminal.ts'

export function sessionCommand(program: Command): void {
  const noun = program.command('session').description('where you are logged in')
  onService(
    noun.command('list', { isDefault: true }).description('list them; this one has a star'),
    async (session, _: NounFlags) =>
      session.out.list(await sessionsOf(session), {
        '': ({ is_this }) => (is_this ? '*' : ' '),
        CLIENT: ({ client }) => client,
        'LOGGED IN': ({ created_at }) => timeText(created_at),
        'LAST USED': ({ last_used_at }) => timeText(last_used_at),
        EXPIRES: ({ expires_at }) => timeText(expires_at),
        ID: ({ id }) => id,
      }),
  )
  const end = noun.command('end').description('log out there').argument('<id>', 'or its beginning')
  onService(
    completeWith(end, async (session) => (await sessionsOf(session)).map(({ id }) => id)),
    async (session, _: NounFlags, typed: string) => {
      const named = (await sessionsOf(session)).map(({ id, client }) => ({ id, client, name: id }))
      const { id, client } = meant(named, typed, 'session')
      await session.client.call(endSession, { params: { session: id } })
      note(`The session of ${client} is over.`)
    },
  )
}

async function sessionsOf({ client }: Session) {
  return (await client.call(listSessions, {})).items
}
