"""Request analysis with the packaged rules and with small ones."""

from typing import Any

import pytest

from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.domain.analysis import Analysis, Rules, analyse, check_overrides, parse_rules
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Overrides

AGENTS = ["Sisyphus - ultraworker", "Hephaestus - Deep Agent", "Sisyphus-Junior", "oracle"]

KOREAN = [
    ("로그인 페이지 버튼 색상을 브랜드 컬러로 바꿔줘", "visual-engineering", []),
    ("모바일에서 레이아웃이 깨져요. 반응형으로 고쳐 주세요", "visual-engineering", ["visual-qa", "frontend"]),
    ("랜딩페이지 시안 두 개만 만들어 줄래?", "visual-engineering", ["frontend"]),
    ("UI를 다크모드로 바꾸고 스크린샷 찍어줘", "visual-engineering", ["frontend", "playwright"]),
    ("React컴포넌트 접근성 점검 부탁드려요", "visual-engineering", ["frontend"]),
    ("관리자 화면에 사이드바 추가해 주세요", "visual-engineering", []),
    ("이번 주 회의록 요약해줘", "writing", []),
    ("이 문서를 영어로 번역해 주세요", "writing", []),
    ("고객에게 보낼 사과 이메일 초안 써줘", "writing", []),
    ("README 문서화 좀 도와줘", "writing", []),
    ("블로그 글 맞춤법 교정 부탁해", "writing", []),
    ("신제품 출시 보도자료를 작성해줘", "writing", []),
    ("오타 하나만 고쳐줘: 'recieve'", "quick", []),
    ("버전 올리고 태그만 달아줘", "quick", []),
    ("변수 이름만 바꿔줘", "quick", []),
    ("신규 서비스 이름 지어줘, 기발한 걸로", "artistry", []),
    ("슬로건 아이디어 열 개만 브레인스토밍해줘", "artistry", []),
    ("여름 이벤트 카피 문구를 재치있게 뽑아줘", "artistry", []),
    ("경쟁사 요금제를 조사해서 장단점을 비교해줘", "deep", []),
    ("결제 서버가 왜 느린지 원인을 파악해줘", "deep", ["debugging"]),
    ("국내 SaaS 시장조사 좀 해줘", "deep", []),
    ("이 알고리즘의 시간복잡도를 증명해줘", "ultrabrain", []),
    ("두 트랜잭션이 교착상태에 빠지는 조건을 논리적으로 설명해줘", "ultrabrain", []),
    ("동시성 문제 때문에 재고가 음수가 되는 경쟁 조건을 찾아줘", "ultrabrain", []),
    ("결제 모듈을 처음부터 다시 구현해줘", "unspecified-high", ["programming"]),
    ("모놀리스를 MSA로 마이그레이션하는 작업을 해줘", "unspecified-high", []),
    ("사용자 API에 단위 테스트 추가해줘", "unspecified-high", ["programming"]),
    ("배포 파이프라인 구축해주세요", "unspecified-high", []),
    ("안녕하세요!", "unspecified-low", []),
    ("지금 몇 시야?", "unspecified-low", []),
    ("점심 뭐 먹을까?", "unspecified-low", []),
    ("구글이랑 댓글 얘기 좀 하자", "unspecified-low", []),
    ("고마워 👍", "unspecified-low", []),
    ("햄버그 스테이크 레시피 알려줘", "unspecified-low", []),
    ("이번 배포에서 난 에러 로그 좀 봐줘", "unspecified-high", ["debugging"]),
    ("다음 주 회의 안건 정리해줘", "writing", []),
    ("점심 메뉴 추천해줘", "unspecified-low", []),
    ("이메일 주소가 뭐야?", "unspecified-low", []),
    ("서비스 이름 후보 좀 제안해줘", "artistry", []),
    ("경쟁 서비스 세 곳 가격 정책 알아봐줘", "deep", []),
]

ENGLISH = [
    ("Please restyle the checkout page: bigger buttons and a dark mode", "visual-engineering", ["frontend"]),
    ("The modal animation on our landing page stutters, make the UI smooth", "visual-engineering", ["frontend"]),
    ("Turn this Figma mockup into a responsive React component", "visual-engineering", ["frontend"]),
    ("Change the CSS so that the footer sticks to the bottom", "visual-engineering", ["frontend"]),
    ("Summarize yesterday's incident thread for the execs", "writing", []),
    ("Translate the release notes into Korean", "writing", []),
    ("Draft an email to the customer about the delay", "writing", []),
    ("Write documentation for the billing API", "writing", []),
    ("Proofread this paragraph please", "writing", []),
    ("fix the typo in the header", "quick", []),
    ("Rename the env var FOO to BAR", "quick", []),
    ("Bump lodash to 4.17.21", "quick", []),
    ("Brainstorm 10 names and a tagline for our new app", "artistry", []),
    ("Give me a haiku about on-call rotations", "artistry", []),
    ("Think of an unconventional campaign idea for Lunar New Year", "artistry", []),
    ("Investigate why checkout latency doubled last week and find the root cause", "deep", ["debugging"]),
    ("Compare Kafka and NATS for our use case, pros and cons, with sources", "deep", []),
    ("Do market research on HR chatbots in Korea", "deep", []),
    ("Prove that this lock-free queue is linearizable", "ultrabrain", []),
    ("Find the race condition in this algorithm", "ultrabrain", []),
    ("What's the time complexity of merging k sorted lists, and is it optimal?", "ultrabrain", []),
    ("Implement SSO end-to-end for the admin backend", "unspecified-high", ["programming"]),
    ("Migrate the database from MySQL to Postgres", "unspecified-high", []),
    ("Refactor the order service and add unit tests", "unspecified-high", ["refactor", "programming"]),
    ("Build a Slack bot that posts our KPIs every morning", "unspecified-high", []),
    ("hello", "unspecified-low", []),
    ("what's the wifi password?", "unspecified-low", []),
    ("thanks, that works", "unspecified-low", []),
    ("Can you remind me who is on vacation?", "unspecified-low", []),
    ("Is the guild building open tomorrow?", "unspecified-low", []),
    ("https://docs.example.com/design/ui — see you there", "unspecified-low", []),
    ("Our nightly job is slow, figure out why", "deep", []),
    ("can you review my PR?", "unspecified-high", []),
    ("Why is the sky blue?", "unspecified-low", []),
    ("analyze this csv and chart weekly signups", "deep", ["data-scientist"]),
]

BUILT_IN_CATEGORIES = {
    "visual-engineering",
    "artistry",
    "ultrabrain",
    "deep",
    "quick",
    "unspecified-low",
    "unspecified-high",
    "writing",
}
# Without coding-agent-sessions, which reads what others left on the machine: our servers have it off.
BUILT_IN_SKILLS = {
    "playwright",
    "frontend",
    "git-master",
    "review-work",
    "remove-ai-slops",
    "init-deep",
    "debugging",
    "security-research",
    "security-review",
    "visual-qa",
    "lsp-setup",
    "start-work",
    "ultimate-browsing",
    "ast-grep",
    "ulw-plan",
    "refactor",
    "programming",
    "data-scientist",
    "ulw-research",
}


@pytest.fixture(scope="module")
def rules() -> Rules:
    return load_rules()


def small_rules(**changes: Any) -> Rules:
    return parse_rules(
        {
            "default_category": "rest",
            "minimum_points": 2,
            "max_skills": 2,
            "categories": {
                "first": {"meaning": "listed first", "keywords": {2: ["apple"], 1: ["plum"]}},
                "second": {"meaning": "listed second", "keywords": {2: ["pear"], 3: ["fig"]}},
                "rest": {"meaning": "anything else"},
            },
            "skills": {
                "peel": {"keywords": {2: ["apple"]}},
                "slice": {"keywords": {2: ["pear"]}},
                "cook": {"keywords": {3: ["fig"]}},
            },
        }
        | changes
    )


def analysed(text: str, rules: Rules, **overrides: Any) -> Analysis:
    return analyse(text, Overrides(**overrides), rules, AGENTS)


# --- the packaged rules ------------------------------------------------------------


@pytest.mark.parametrize(("text", "category", "skills"), [*KOREAN, *ENGLISH], ids=lambda value: str(value)[:30])
def test_sentence_gets_its_category_and_skills(text: str, category: str, skills: list[str], rules: Rules) -> None:
    analysis = analysed(text, rules)

    assert (analysis.category, list(analysis.skills)) == (category, skills)


def test_packaged_names_are_those_of_the_plugin(rules: Rules) -> None:
    assert set(rules.categories) == BUILT_IN_CATEGORIES
    assert set(rules.skills) == BUILT_IN_SKILLS
    assert rules.default_category == "unspecified-low"


@pytest.mark.parametrize("category", sorted(BUILT_IN_CATEGORIES))
def test_every_category_is_reached_by_some_sentence(category: str) -> None:
    assert category in {row[1] for row in (*KOREAN, *ENGLISH)}


# --- choosing ------------------------------------------------------------


def test_most_points_win() -> None:
    assert analysed("apple fig", small_rules()).category == "second"


def test_of_equal_points_the_one_listed_first_wins() -> None:
    assert analysed("pear apple", small_rules()).category == "first"


def test_repeating_a_keyword_gives_no_more_points() -> None:
    assert analysed("plum plum plum plum", small_rules()).category == "rest"


def test_too_few_points_leave_the_default() -> None:
    analysis = analysed("plum", small_rules())

    assert analysis.category == "rest"
    assert analysis.reasons[0] == "category rest: no keyword decided"


def test_skills_are_limited_and_ordered_by_points() -> None:
    assert analysed("apple pear fig", small_rules()).skills == ("cook", "peel")


def test_request_at_the_end_of_a_long_paste_is_seen() -> None:
    assert analysed("lorem " * 5000 + "pear fig", small_rules()).category == "second"


def test_reasons_name_keywords_and_points_and_no_other_text() -> None:
    analysis = analysed("my secret apple", small_rules())

    assert analysis.reasons == (
        "category first: apple 2",
        "skill peel: apple 2",
        "agent Sisyphus - ultraworker: the default",
    )


# --- what the caller decides ------------------------------------------------------------


def test_callers_category_and_skills_win_over_the_text() -> None:
    analysis = analysed("apple", small_rules(), category="second", skills=["cook", "slice", "cook"])

    assert (analysis.category, analysis.skills) == ("second", ("cook", "slice"))
    assert "category second: the caller's choice" in analysis.reasons


def test_callers_empty_list_means_no_skills() -> None:
    assert analysed("apple", small_rules(), skills=[]).skills == ()


def test_callers_model_is_passed_on() -> None:
    assert analysed("apple", small_rules(), model="anthropic/claude").model == "anthropic/claude"


@pytest.mark.parametrize(
    ("overrides", "code", "listed"),
    [
        (Overrides(category="nope"), "unknown_category", "first, second, rest"),
        (Overrides(skills=["peel", "nope"]), "unknown_skill", "peel, slice, cook"),
        (Overrides(model="claude"), "invalid_model", "provider/model"),
        (Overrides(model='a/b", x="'), "invalid_model", "provider/model"),
        (Overrides(agent="nope"), "unknown_agent", "oracle"),
    ],
)
def test_unknown_choice_is_refused_with_what_exists(overrides: Overrides, code: str, listed: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        analyse("apple", overrides, small_rules(), AGENTS)

    assert refused.value.code == code
    assert listed in str(refused.value)


def test_choices_can_be_checked_before_the_agents_are_known() -> None:
    check_overrides(Overrides(agent="whoever", category="first", skills=["peel"], model="a/b"), small_rules())

    with pytest.raises(InvalidInputError):
        check_overrides(Overrides(category="nope"), small_rules())


# --- agents ------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (None, "Sisyphus - ultraworker"),
        ("Sisyphus - ultraworker", "Sisyphus - ultraworker"),
        ("sisyphus", "Sisyphus - ultraworker"),
        ("hephaestus", "Hephaestus - Deep Agent"),
        ("Sisyphus-Junior", "Sisyphus-Junior"),
        ("oracle", "oracle"),
    ],
)
def test_agent_is_the_exact_display_name(wanted: str | None, chosen: str) -> None:
    assert analysed("apple", small_rules(), agent=wanted).agent == chosen


def test_another_main_agent_can_be_named() -> None:
    rules = parse_rules({"default_category": "a", "categories": {"a": {}}}, main_agent="build")

    analysis = analyse("hello", Overrides(), rules, ["plan", "build"])

    assert (analysis.agent, analysis.instructions) == ("build", "")


def test_server_without_sisyphus_is_not_asked_to_delegate_whatever_the_caller_wants() -> None:
    analysis = analyse("apple", Overrides(category="second", skills=["peel"]), small_rules(), ["build", "plan"])

    assert (analysis.category, analysis.skills, analysis.instructions) == (None, (), "")
    assert "no delegation: the agent works on the request itself" in analysis.reasons


def test_server_without_sisyphus_keeps_its_default_agent_and_is_not_asked_to_delegate() -> None:
    analysis = analyse("apple", Overrides(), small_rules(), ["build", "plan"])

    assert (analysis.agent, analysis.category, analysis.instructions) == (None, None, "")


def test_unknown_agents_leave_the_choice_to_the_server_and_ask_to_delegate() -> None:
    analysis = analyse("apple", Overrides(), small_rules(), [])

    assert analysis.agent is None
    assert "task(" in analysis.instructions


def test_callers_other_agent_works_on_the_request_itself() -> None:
    analysis = analysed("apple", small_rules(), agent="oracle")

    assert (analysis.agent, analysis.category, analysis.instructions) == ("oracle", None, "")


def test_callers_other_agent_delegates_when_the_caller_says_what() -> None:
    analysis = analysed("apple", small_rules(), agent="hephaestus", category="second")

    assert analysis.agent == "Hephaestus - Deep Agent"
    assert 'category="second"' in analysis.instructions


# --- instructions ------------------------------------------------------------


def test_instructions_ask_for_a_foreground_task_with_category_and_skills() -> None:
    analysis = analysed("apple fig", small_rules())

    assert 'task(category="second", load_skills=["cook", "peel"], run_in_background=false)' in analysis.instructions
    assert analysis.instructions.startswith("Delegate this request")


def test_undecided_request_may_be_answered_directly() -> None:
    instructions = analysed("hello", small_rules()).instructions

    assert instructions.startswith("Answer directly")
    assert 'task(category="rest", load_skills=[], run_in_background=false)' in instructions


def test_as_dict_is_plain_data() -> None:
    stored = analysed("apple", small_rules()).as_dict()

    assert set(stored) == {"category", "skills", "agent", "model", "instructions", "reasons"}
    assert stored["skills"] == ["peel"]


# --- rules ------------------------------------------------------------


def test_later_layer_adds_changes_and_takes_away() -> None:
    base: dict[str, Any] = {
        "default_category": "a",
        "categories": {"a": {"meaning": "A", "keywords": {2: ["apple", "plum"]}}},
        "skills": {"s": {"keywords": {2: ["apple"]}}},
    }
    extra = {
        "minimum_points": 3,
        "categories": {
            "a": {"keywords": {3: ["apple"], 0: ["plum"]}},
            "own": {"meaning": "ours", "keywords": {3: ["fig"]}},
        },
        "skills": {"s": {"by_caller_only": True}},
    }

    rules = parse_rules(base, extra)

    assert rules.categories == {"a": "A", "own": "ours"}
    assert analysed("apple", rules).reasons[0] == "category a: apple 3"
    assert analysed("plum", rules).reasons[0] == "category a: no keyword decided"
    assert analysed("fig", rules).category == "own"
    assert analysed("apple", rules).skills == ()
    assert analysed("apple", rules, skills=["s"]).skills == ("s",)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"default_category": "nope"}, "default_category"),
        ({"minimum_points": 0}, "minimum_points"),
        ({"max_skills": "many"}, "max_skills"),
        ({"typo": 1}, "typo"),
        ({"categories": ["a"]}, "categories"),
        ({"categories": {'a"b': {}}}, "letters"),
        ({"categories": {"rest": None}}, "categories.rest"),
        ({"categories": {"rest": {"keyword": {}}}}, "categories.rest: unknown field"),
        ({"categories": {"rest": {"keywords": ["a"]}}}, "categories.rest.keywords"),
        ({"categories": {"rest": {"keywords": {"2": ["a"]}}}}, "whole numbers"),
        ({"categories": {"rest": {"keywords": {True: ["a"]}}}}, "whole numbers"),
        ({"categories": {"rest": {"keywords": {-1: ["a"]}}}}, "whole numbers"),
        ({"categories": {"rest": {"keywords": {2: "a"}}}}, "list"),
        ({"categories": {"rest": {"keywords": {2: [False]}}}}, "not a keyword"),
        ({"categories": {"rest": {"keywords": {2: ["!"]}}}}, "not a keyword"),
        ({"categories": {"rest": {"keywords": {2: ["a*b"]}}}}, "at its end"),
    ],
)
def test_rules_that_do_not_fit_are_refused_with_their_place(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInputError, match=place.replace(".", r"\.")):
        small_rules(**changes)


def test_a_category_may_have_a_deadline_and_the_last_word_counts() -> None:
    layers: list[dict[str, Any]] = [
        {"default_category": "quick", "categories": {"quick": {"deadline_s": 60}, "deep": {}}},
        {"categories": {"quick": {"deadline_s": 90}}},
    ]

    assert parse_rules(*layers).deadlines_s == {"quick": 90}
    with pytest.raises(InvalidInputError, match=r"categories\.deep\.deadline_s"):
        parse_rules(*layers, {"categories": {"deep": {"deadline_s": 0}}})
