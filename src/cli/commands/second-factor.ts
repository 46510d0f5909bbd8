import type { Command } from 'commander'
import { confirmTotp, removeTotp, renewRecoveryCodes, startTotp } from '../../api/control/second-factor.ts'
import { type NounFlags, onService, type Session } from '../noun.ts'
import type { Output } from '../output.ts'
import { askSecret, codesGiven } from '../secrets.ts'
import { note } from '../terminal.ts'

export function secondFactorCommand(program: Command): void {
  const noun = program
    .command('second-factor')
    .description('an authenticator app at log-in, and recovery codes for when it is lost')
  onService(noun.command('on').description('set one up: prints the secret for your app'), runOn)
  onService(
    noun.command('confirm').description('give a first code of the app; prints recovery codes'),
    runConfirm,
  )
  onService(noun.command('codes').description('new recovery codes in place of the old ones'), runCodes)
  onService(noun.command('off').description('log in with a password alone again'), runOff)
}

/** A pipe brings the password alone: the code cannot be known before the secret. */
async function runOn(session: Session, flags: NounFlags): Promise<void> {
  const password = await askSecret('Password')
  const { secret, uri } = await session.client.call(startTotp, { body: { password } })
  session.out.one({ id: secret, uri }, { SECRET: ({ id }) => id, ADDRESS: (it) => it.uri })
  note('Give your authenticator app the secret, or open the address on your phone.')
  if (process.stdin.isTTY === true) await runConfirm(session, flags)
  else note('Then: ropeway second-factor confirm')
}

async function runConfirm({ client, out }: Session, _: NounFlags): Promise<void> {
  const code = await askSecret('Code of the app')
  print(out, (await client.call(confirmTotp, { body: { code } })).recovery_codes)
}

async function runCodes({ client, out }: Session): Promise<void> {
  const code = await askSecret('Code of your authenticator app')
  print(out, (await client.call(renewRecoveryCodes, { body: { code } })).recovery_codes)
}

async function runOff({ client }: Session, _: NounFlags): Promise<void> {
  const body = codesGiven(await askSecret('Code of your authenticator app, or a recovery code'))
  await client.call(removeTotp, { body })
  note('Your password alone lets you in now.')
}

function print(out: Output, codes: readonly string[]): void {
  note('Recovery codes, shown this once. Each lets you in once without your phone: keep them elsewhere.')
  out.list(
    codes.map((id) => ({ id })),
    { 'RECOVERY CODE': ({ id }) => id },
  )
}
