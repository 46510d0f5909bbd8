/** The second factor: an authenticator app, and recovery codes for when it is lost. */
import { randomBytes } from 'node:crypto'
import { Refused } from '../../api/control/problem.ts'
import * as api from '../../api/control/second-factor.ts'
import { listOrganisations, organisationRoleOf } from '../projects/projects.ts'
import type { ServiceContext } from '../service/context.ts'
import type { RouteModule, Serve } from '../service/routes.ts'
import { countFailure, refuseTooMany } from './attempts.ts'
import { confirmPassword, must, requireSession } from './checks.ts'
import { changePerson, type PersonRow, personById, personMeant } from './people.ts'
import { dropCodes, renewCodes, takeCode } from './recovery-codes.ts'
import { closeAllSessions } from './sessions.ts'
import { toBase32, totpStep, totpUri } from './totp.ts'

export const secondFactorRoutes: RouteModule = (serve, context) => {
  setUpRoutes(serve, context)
  removeRoute(serve, context)
  resetRoute(serve, context)
}

function setUpRoutes(serve: Serve, context: ServiceContext): void {
  const { store, sealer } = context
  serve(api.startTotp, async ({ actor, body, address }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    if (person.totp_confirmed === 1)
      throw new Refused('conflict', 'A second factor is set up already.', { fix: 'Remove it first.' })
    await confirmPassword(context, person, body.password, address)
    const secret = randomBytes(20)
    await must(
      changePerson(store, person, { totp_sealed: sealer.seal(secret.toString('base64'), person.id) }),
    )
    return { secret: toBase32(secret), uri: totpUri(secret, person.email) }
  })
  serve(api.confirmTotp, async ({ actor, body, address, audit }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    if (person.totp_sealed === null)
      throw new Refused('conflict', 'No secret was asked for.', { fix: 'Ask for one first (POST /totp).' })
    if (person.totp_confirmed === 1)
      throw new Refused('conflict', 'A second factor is set up already.', { fix: 'Remove it first.' })
    await refuseTooMany(store, person.email, address)
    const step = stepOf(context, person, body.code)
    if (step === undefined) {
      await countFailure(store, person.email, address)
      throw wrongCode()
    }
    return await store.transaction(async () => {
      await must(changePerson(store, person, { totp_confirmed: 1, totp_last_step: step }))
      await audit('person.totp', person.id)
      return { recovery_codes: await renewCodes(store, person.id) }
    })
  })
  serve(api.renewRecoveryCodes, async ({ actor, body, address, audit }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    if (person.totp_confirmed !== 1)
      throw new Refused('conflict', 'No second factor is set up.', { fix: 'ropeway second-factor on' })
    await refuseTooMany(store, person.email, address)
    await checkSecondFactor(context, person, body, () => countFailure(store, person.email, address))
    return await store.transaction(async () => {
      await audit('person.recovery-codes', person.id)
      return { recovery_codes: await renewCodes(store, person.id) }
    })
  })
}

function removeRoute(serve: Serve, context: ServiceContext): void {
  const { store } = context
  serve(api.removeTotp, async ({ actor, body, address, audit }) => {
    requireSession(actor)
    const person = (await personById(store, actor.personId))!
    await refuseTooMany(store, person.email, address)
    await checkSecondFactor(context, person, body, () => countFailure(store, person.email, address))
    await store.transaction(async () => {
      await takeOff(store, person.id)
      await audit('person.totp-remove', person.id)
    })
  })
}

/** By who runs the service, or an owner of the only organisation that the person is in: it opens no other one's door. */
function resetRoute(serve: Serve, { store }: ServiceContext): void {
  serve(api.resetSecondFactor, async ({ actor, organisation, params, audit }) => {
    const person = await personMeant(store, params.person)
    if ((await organisationRoleOf(store, organisation.id, person.id)) === undefined)
      throw new Refused('not_found', `${params.person} is no member of ${organisation.name}.`)
    if (!actor.isOperator) {
      const theirs = await listOrganisations(store, { id: person.id, isOperator: false }, { limit: 2 })
      const elsewhere = person.is_operator === 1 || theirs.rows.length > 1
      if (elsewhere)
        throw new Refused('forbidden', `${person.email} belongs to other organisations too.`, {
          fix: 'Only who runs this service may take their second factor off.',
        })
    }
    await store.transaction(async () => {
      await takeOff(store, person.id)
      await closeAllSessions(store, person.id)
      await audit('person.totp-reset', person.id, { email: person.email })
    })
  })
}

async function takeOff(store: ServiceContext['store'], id: string): Promise<void> {
  const now = (await personById(store, id))!
  await must(changePerson(store, now, { totp_confirmed: 0, totp_sealed: null }))
  await dropCodes(store, id)
}

type Sealed = Pick<ServiceContext, 'sealer' | 'store'>

export interface GivenCodes {
  readonly code?: string | undefined
  readonly recovery_code?: string | undefined
}

/**
 * Uses the code up: nobody who saw it can use it again. How many recovery codes are left, when it was one of them.
 * Throws when a second factor is set up and neither code is right, once `failed` has counted it.
 */
export async function checkSecondFactor(
  context: Sealed,
  person: PersonRow,
  { code, recovery_code }: GivenCodes,
  failed: () => Promise<void>,
): Promise<number | undefined> {
  if (person.totp_confirmed !== 1) return undefined
  if (code === undefined && recovery_code === undefined)
    throw new Refused('second_factor_required', 'This account has a second factor.', {
      param: 'code',
      fix: 'Give the code of your authenticator app too, or a recovery code.',
    })
  if (recovery_code !== undefined) {
    const left = await takeCode(context.store, person.id, recovery_code)
    if (left !== undefined) return left
    await failed()
    throw new Refused('unauthenticated', 'This is no recovery code, or it was used before.', {
      param: 'recovery_code',
      fix: 'Use another one, or ask an owner of your organisation (ropeway org reset-second-factor).',
    })
  }
  const step = stepOf(context, person, code!)
  const used =
    step === undefined ? undefined : await changePerson(context.store, person, { totp_last_step: step })
  if (used !== undefined) return undefined
  await failed()
  throw wrongCode()
}

function stepOf({ sealer, store }: Sealed, person: PersonRow, code: string): number | undefined {
  const secret = Buffer.from(sealer.open(person.totp_sealed!, person.id), 'base64')
  return totpStep(secret, code, store.clock.unixMs(), person.totp_last_step)
}

function wrongCode(): Refused {
  return new Refused('unauthenticated', 'The code is wrong, too old, or was used before.', {
    param: 'code',
    fix: 'Wait for the next code; check that the clock of your phone is right.',
  })
}
