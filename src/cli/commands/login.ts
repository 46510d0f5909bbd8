import { createInterface } from 'node:readline/promises'
import type { Command } from 'commander'
import { Client } from '../../api/control/client.ts'
import { linkOidc, tokenOfOidc, unlinkOidc, viewOidc } from '../../api/control/oidc.ts'
import { changePassword, logIn, logOut, signUp, whoAmI } from '../../api/control/people.ts'
import { Refused } from '../../api/control/problem.ts'
import { UserError } from '../../base/errors.ts'
import { chosenContext, readContexts, saveContext, writeContexts } from '../contexts.ts'
import { type NounFlags, onService, type Session } from '../noun.ts'
import { askSecret, codesGiven } from '../secrets.ts'
import { note } from '../terminal.ts'
import { codeByBrowser } from '../web-login.ts'

interface LoginFlags {
  email?: string
  key?: boolean
  web?: boolean
  link?: boolean
  unlink?: boolean
  name?: string
  invitation?: string
}

const client = 'ropeway command line'

export function loginCommands(program: Command): void {
  program
    .command('login')
    .description('log in to a service and remember it as a context')
    .argument('[url]', 'where the service is; the current context without it')
    .option('--email <address>', 'your address; asked for without it')
    .option('--key', 'with an API key instead of a password; it is read from stdin')
    .option('--web', 'in a browser, through the OpenID provider of the service')
    .option('--link', 'let your account at the OpenID provider log in as you; you are logged in already')
    .option('--unlink', 'no longer let it')
    .option('--name <context>', 'what to call the context (default: the host)')
    .action(runLogin)
  program
    .command('signup')
    .description('make an account by an invitation, and log in')
    .argument('<url>', 'where the service is')
    .requiredOption('--email <address>', 'the address that was invited')
    .requiredOption('--invitation <token>', 'the invitation')
    .option('--name <context>', 'what to call the context (default: the host)')
    .action(runSignUp)
  onService(
    program.command('password').description('change your password; every other session ends'),
    runPassword,
  )
  onService(program.command('logout').description('end the session and forget its token'), runLogout)
  onService(program.command('whoami').description('who you are, with what, and where you belong'), runWhoAmI)
}

async function runLogin(given: string | undefined, flags: LoginFlags): Promise<void> {
  const url = serviceUrl(given ?? chosenContext(undefined).url)
  if (flags.link === true || flags.unlink === true) return await changeLink(flags)
  await remember(url, await tokenBy(url, flags), flags.name)
}

async function tokenBy(url: string, flags: LoginFlags): Promise<string> {
  if (flags.key === true) return await askSecret('Key')
  if (flags.web !== true) return await passwordLogin(url, flags)
  const service = new Client({ url })
  await refuseWithoutProvider(service)
  return (await service.call(tokenOfOidc, { body: { ...(await codeByBrowser(url)), client } })).token
}

async function changeLink({ unlink }: LoginFlags): Promise<void> {
  const service = new Client(chosenContext(undefined))
  if (unlink === true) {
    await service.call(unlinkOidc, {})
    note('The OpenID provider no longer logs you in.')
    return
  }
  await refuseWithoutProvider(service)
  await service.call(linkOidc, { body: await codeByBrowser(service.url) })
  note('The OpenID provider logs you in from now on: ropeway login --web')
}

/** Before anybody opens a browser. */
async function refuseWithoutProvider(service: Client): Promise<void> {
  if ((await service.call(viewOidc, {})).enabled) return
  throw new UserError('This service has no OpenID provider.', {
    failure: 'usage',
    fix: 'Log in with a password: ropeway login --email ADDRESS',
  })
}

async function runSignUp(given: string, flags: LoginFlags): Promise<void> {
  const url = serviceUrl(given)
  const { email, invitation } = flags
  const password = await askSecret('A new password (10 characters or more)')
  const body = { email: email!, name: email!.split('@')[0]!, password, invitation: invitation!, client }
  const { token } = await new Client({ url }).call(signUp, { body })
  await remember(url, token, flags.name)
}

async function passwordLogin(url: string, flags: LoginFlags): Promise<string> {
  const email = flags.email ?? (await ask('Address: '))
  const body = { email, password: await askSecret('Password'), client }
  const service = new Client({ url })
  try {
    return (await service.call(logIn, { body })).token
  } catch (error) {
    if (!(error instanceof Refused) || error.code !== 'second_factor_required' || !process.stdin.isTTY)
      throw error
  }
  const typed = await ask('Code of your authenticator app, or a recovery code: ')
  const answer = await service.call(logIn, { body: { ...body, ...codesGiven(typed) } })
  if (answer.recovery_codes_left !== undefined)
    note(`${answer.recovery_codes_left} recovery codes are left; ropeway second-factor codes makes new ones.`)
  return answer.token
}

async function ask(question: string): Promise<string> {
  if (process.stdin.isTTY !== true)
    throw new UserError('No address was given, and nobody is there to ask.', {
      failure: 'usage',
      fix: 'Give --email ADDRESS.',
    })
  const lines = createInterface({ input: process.stdin, output: process.stderr })
  const answer = await lines.question(question)
  lines.close()
  return answer.trim()
}

async function remember(url: string, token: string, name: string | undefined): Promise<void> {
  const me = await new Client({ url, token }).call(whoAmI, {})
  const [project, second] = me.projects
  const context = name ?? new URL(url).host
  const chosen = project !== undefined && second === undefined ? { project: project.name } : {}
  saveContext(context, { url, token, ...chosen })
  note(`Logged in to ${url} as ${me.person.email}; this is the context ${context} now.`)
  if (second !== undefined) note('You are in several projects: choose one with `ropeway project use NAME`.')
}

/** Tokens go over plain HTTP to this machine alone. */
function serviceUrl(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const isLocal = url !== undefined && /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname)
  if (url?.protocol === 'https:' || (url?.protocol === 'http:' && isLocal)) return url.origin
  if (url?.protocol === 'http:' && process.env.ROPEWAY_ALLOW_HTTP === '1') return url.origin
  throw new UserError(`${text} is no address to send a password to.`, {
    failure: 'usage',
    fix: 'Give https://HOST, or http://127.0.0.1:PORT. In a network that you trust, ROPEWAY_ALLOW_HTTP=1 allows http.',
  })
}

async function runPassword({ client: service }: Session): Promise<void> {
  // On a pipe: the old one and the new one, a line each.
  const lines = process.stdin.isTTY ? undefined : (await askSecret('')).split('\n')
  const old = lines?.[0] ?? (await askSecret('The old password (empty if you never had one)'))
  const body = { old, new: lines?.[1] ?? (await askSecret('The new password (10 characters or more)')) }
  await service.call(changePassword, { body })
  note('Your password is changed.')
}

async function runLogout({ client: service, contextName }: Session): Promise<void> {
  try {
    await service.call(logOut, {})
  } catch (error) {
    // A key has no session to end, and an ended session is what was wanted.
    if (!(error instanceof Refused)) throw error
  }
  const { current, contexts } = readContexts()
  const { token: _, ...rest } = contexts[contextName] ?? { url: '' }
  if (rest.url !== '')
    writeContexts({ ...(current && { current }), contexts: { ...contexts, [contextName]: rest } })
  note('Logged out.')
}

async function runWhoAmI({ client: service, out }: Session, _: NounFlags): Promise<void> {
  const me = await service.call(whoAmI, {})
  const roles = (items: { name: string; role: string }[]) =>
    items.map(({ name, role }) => `${name} (${role})`).join(', ')
  out.one(
    { id: me.person.id, ...me },
    {
      PERSON: ({ person }) => `${person.email}${person.is_operator ? ', runs this service' : ''}`,
      WITH: ({ key, with: way }) => (key === null ? way : `key ${key.name}, scopes ${key.scopes.join(' ')}`),
      SERVICE: () => service.url,
      ORGANISATIONS: ({ organisations }) => roles(organisations),
      PROJECTS: ({ projects }) => roles(projects),
    },
  )
}
