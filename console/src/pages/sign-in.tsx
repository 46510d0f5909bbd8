import { Navigate, useNavigate } from '@tanstack/react-router'
import { type FormEvent, useEffect, useState } from 'react'
import { apiRoot } from '../../../src/api/control/endpoint.ts'
import { viewOidc } from '../../../src/api/control/oidc.ts'
import { logIn, useSignInCode, whoAmI } from '../../../src/api/control/people.ts'
import { Refused } from '../../../src/api/control/problem.ts'
import { Problem } from '../parts/problem.tsx'
import { isSignedOut, service, useAnswer, useDeed } from '../service.ts'

const everything = ['']

export function SignIn() {
  const navigate = useNavigate()
  const enter = () => void navigate({ to: '/' })
  const code = useCode()
  const who = useAnswer(whoAmI, {})
  const byCode = useDeed((code: string) => service.call(useSignInCode, { body: { code } }), everything, enter)
  const { mutate } = byCode
  const isNobody = isSignedOut(who.error)
  useEffect(() => {
    if (code !== undefined && isNobody) mutate(code)
  }, [code, isNobody, mutate])
  return (
    <main className="narrow">
      <h1>Ropeway</h1>
      <Problem error={byCode.error} />
      {byCode.isPending && <p className="quiet">Signing in ...</p>}
      {who.data && code !== undefined && !byCode.isPending && (
        // Somebody's link must not make this browser somebody else's.
        <p className="row">
          You are signed in as {who.data.person.email}. This address signs in as whoever made it.
          <button type="button" className="main" onClick={enter}>
            Stay who you are
          </button>
          <button type="button" onClick={() => mutate(code)}>
            Sign in by it
          </button>
        </p>
      )}
      {isNobody && !byCode.isPending && <Ways enter={enter} />}
      {who.data && code === undefined && <Navigate to="/" />}
      <p className="quiet">
        On the machine of the service, or wherever your command line is logged in,{' '}
        <code>ropeway console</code> prints an address that signs you in.
      </p>
    </main>
  )
}

/** What stands behind `#` in the address; it does not stay there, nor in the history of the browser. */
function useCode(): string | undefined {
  const [code, setCode] = useState<string>()
  useEffect(() => {
    const look = () => {
      const given = location.hash.slice(1)
      if (given === '') return
      history.replaceState(null, '', location.pathname)
      setCode(given)
    }
    look()
    // An address with a code, opened where this page is open already.
    window.addEventListener('hashchange', look)
    return () => window.removeEventListener('hashchange', look)
  }, [])
  return code
}

function Ways({ enter }: { enter: () => void }) {
  const provider = useAnswer(viewOidc, {})
  return (
    <>
      {provider.data?.enabled === true && (
        <a className="button" href={`${apiRoot}/oidc/start?return_to=/`}>
          Sign in through {provider.data.name}
        </a>
      )}
      <PasswordForm enter={enter} />
    </>
  )
}

function PasswordForm({ enter }: { enter: () => void }) {
  const [needsCode, setNeedsCode] = useState(false)
  const deed = useDeed(
    (body: { email: string; password: string; code?: string; recovery_code?: string }) =>
      service.call(logIn, { body: { ...body, client: 'browser', cookie: true } }),
    everything,
    enter,
  )
  const asksForCode = deed.error instanceof Refused && deed.error.code === 'second_factor_required'
  useEffect(() => {
    if (asksForCode) setNeedsCode(true)
  }, [asksForCode])
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const typed = String(given.get('code') ?? '').trim()
    const code = typed === '' ? {} : /^\d{6}$/.test(typed) ? { code: typed } : { recovery_code: typed }
    deed.mutate({ email: String(given.get('email')), password: String(given.get('password')), ...code })
  }
  return (
    <form onSubmit={send}>
      <label>
        Address
        <input name="email" type="email" autoComplete="username" required />
      </label>
      <label>
        Password
        <input name="password" type="password" autoComplete="current-password" required />
      </label>
      {needsCode && (
        <label>
          Code of your authenticator app, or a recovery code
          <input name="code" autoComplete="one-time-code" required />
        </label>
      )}
      {!asksForCode && <Problem error={deed.error} />}
      <button type="submit" className="main" disabled={deed.isPending}>
        Sign in
      </button>
    </form>
  )
}
