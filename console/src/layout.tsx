import { Link, Navigate, Outlet, useNavigate, useParams } from '@tanstack/react-router'
import { logOut, whoAmI } from '../../src/api/control/people.ts'
import { listProjects } from '../../src/api/control/projects.ts'
import { Problem } from './parts/problem.tsx'
import { isSignedOut, service, useAnswer, useDeed } from './service.ts'

/** Around every page of who is signed in. */
export function Layout() {
  const who = useAnswer(whoAmI, {})
  if (isSignedOut(who.error)) return <Navigate to="/sign-in" search={{}} />
  return (
    <>
      <header className="top">
        <Link to="/" className="name">
          <img src={icon} alt="" width="24" height="24" /> Ropeway
        </Link>
        <ProjectMenu />
        <span className="space" />
        {who.data && <Person email={who.data.person.email} />}
        <ProjectLinks />
      </header>
      <main>{who.error ? <Problem error={who.error} /> : who.data && <Outlet />}</main>
    </>
  )
}

function ProjectMenu() {
  const navigate = useNavigate()
  const chosen = useParams({ strict: false, select: ({ project }) => project })
  const projects = useAnswer(listProjects, { query: { limit: 500 } })
  if (projects.data === undefined) return null
  return (
    <select
      aria-label="Project"
      value={chosen ?? ''}
      onChange={({ target }) =>
        void navigate({ to: '/projects/$project', params: { project: target.value } })
      }
    >
      {chosen === undefined && <option value="">Choose a project</option>}
      {projects.data.items.map(({ id, name }) => (
        <option key={id} value={name}>
          {name}
        </option>
      ))}
    </select>
  )
}

function ProjectLinks() {
  const project = useParams({ strict: false, select: ({ project }) => project })
  if (project === undefined) return null
  const params = { project }
  return (
    <nav>
      <Link to="/projects/$project" params={params} activeOptions={{ exact: true }}>
        Overview
      </Link>
      <Link to="/projects/$project/data" params={params}>
        Data
      </Link>
      <Link to="/projects/$project/jobs" params={params}>
        Jobs
      </Link>
      <Link to="/projects/$project/models" params={params}>
        Models
      </Link>
      <Link to="/projects/$project/deployments" params={params}>
        Deployments
      </Link>
      <Link to="/projects/$project/usage" params={params}>
        Usage
      </Link>
      <Link to="/projects/$project/keys" params={params}>
        Keys
      </Link>
      <Link to="/projects/$project/credentials" params={params}>
        Credentials
      </Link>
      <Link to="/projects/$project/machines" params={params}>
        Machines
      </Link>
      <Link to="/projects/$project/members" params={params}>
        Members
      </Link>
      <Link to="/projects/$project/history" params={params}>
        History
      </Link>
    </nav>
  )
}

function Person({ email }: { email: string }) {
  const leave = useDeed(
    () => service.call(logOut, {}),
    [],
    // What was asked as this person is forgotten with the page.
    () => location.assign('/sign-in'),
  )
  return (
    <>
      <Link to="/account">{email}</Link>
      <button type="button" onClick={() => leave.mutate(undefined)}>
        Sign out
      </button>
    </>
  )
}

import icon from './icon.svg'
