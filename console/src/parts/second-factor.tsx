import { type FormEvent, type ReactNode, useState } from 'react'
import {
  confirmTotp,
  removeTotp,
  renewRecoveryCodes,
  startTotp,
} from '../../../src/api/control/second-factor.ts'
import { service, useDeed } from '../service.ts'
import { Copy } from './copy.tsx'
import { Problem } from './problem.tsx'

/** An authenticator app at signing in: set up, with recovery codes, and taken away. */
export function SecondFactor({ isOn }: { isOn: boolean }) {
  const [codes, show] = useState<readonly string[]>()
  return (
    <>
      {isOn ? <Change onCodes={show} /> : <SetUp onCodes={show} />}
      {isOn && codes !== undefined && (
        <div className="made" role="status">
          <p>
            Each of these recovery codes lets you in once without your phone. They are shown here now and
            never again: keep them elsewhere.
          </p>
          <Copy text={codes.join(' ')} label="the recovery codes" />
        </div>
      )}
    </>
  )
}

interface WithCodes {
  onCodes(codes: readonly string[] | undefined): void
}

function SetUp({ onCodes }: WithCodes) {
  const start = useDeed(async (form: HTMLFormElement) => {
    const body = { password: String(new FormData(form).get('password')) }
    const started = await service.call(startTotp, { body })
    form.reset()
    return started
  }, [])
  const confirm = useDeed(
    (code: string) => service.call(confirmTotp, { body: { code } }),
    ['people.'],
    ({ recovery_codes }) => {
      start.reset()
      onCodes(recovery_codes)
    },
  )
  if (start.data !== undefined)
    return (
      <>
        <p>
          Give your authenticator app this secret, or <a href={start.data.uri}>open its address</a> where the
          app is. It counts once you have typed a first code.
        </p>
        <Copy text={start.data.secret} label="the secret" />
        <CodeForm
          label="Code of the app"
          verb="Turn it on"
          isBusy={confirm.isPending}
          onSend={confirm.mutate}
        />
        <Problem error={confirm.error} />
      </>
    )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    start.mutate(event.currentTarget)
  }
  return (
    <>
      <p className="quiet">It is off: your password alone lets you in.</p>
      <form onSubmit={send} className="row">
        <label>
          Your password
          <input name="password" type="password" autoComplete="current-password" required />
        </label>
        <button type="submit" disabled={start.isPending}>
          Set up an authenticator app
        </button>
      </form>
      <Problem error={start.error} />
    </>
  )
}

function Change({ onCodes }: WithCodes) {
  const renew = useDeed(
    (code: string) => service.call(renewRecoveryCodes, { body: { code } }),
    [],
    ({ recovery_codes }) => onCodes(recovery_codes),
  )
  const remove = useDeed(
    (typed: string) =>
      service.call(removeTotp, { body: /^\d{6}$/.test(typed) ? { code: typed } : { recovery_code: typed } }),
    ['people.'],
    () => onCodes(undefined),
  )
  return (
    <>
      <p className="quiet">It is on: signing in takes a code of your authenticator app.</p>
      <CodeForm
        label="Code of the app"
        verb="Make new recovery codes"
        isBusy={renew.isPending}
        onSend={renew.mutate}
      />
      <Problem error={renew.error} />
      <CodeForm
        label="Code of the app, or a recovery code"
        verb="Turn it off"
        isBusy={remove.isPending}
        onSend={remove.mutate}
      />
      <Problem error={remove.error} />
    </>
  )
}

interface CodeFormProps {
  readonly label: ReactNode
  readonly verb: string
  readonly isBusy: boolean
  onSend(code: string): void
}

function CodeForm({ label, verb, isBusy, onSend }: CodeFormProps) {
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    onSend(String(new FormData(event.currentTarget).get('code')).trim())
    event.currentTarget.reset()
  }
  return (
    <form onSubmit={send} className="row">
      <label>
        {label}
        <input name="code" autoComplete="one-time-code" required maxLength={100} />
      </label>
      <button type="submit" disabled={isBusy}>
        {verb}
      </button>
    </form>
  )
}
