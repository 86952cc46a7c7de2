"""The Chinese pages say what the English pages say: same commands, numbers, table rows, headings and links."""

import re
from pathlib import Path

import pytest

from tests.helpers.page_twins import CODE_SPAN, FENCE, NUMBER, anchors, differences, links

ROOT = Path(__file__).parents[2]
TWINS = {"README.md": "README.zh-CN.md"}
TWINS |= {f"docs/{page.name}": f"docs/zh/{page.name}" for page in sorted((ROOT / "docs" / "zh").glob("*.md"))}
OTHER_WORDS = {  # word that must not occur: the word that is used
    "玩具": "示例 or 合成人脸",
    "门禁": "验收门槛",
    "门限": "验收门槛, or 阈值 for a distance",
    "替身": "模拟程序",
    "伴随文件": "附带说明文件",
    "特征向量": "嵌入向量",
    "类中心": "类别中心",
    "验证集合": "验证集",
}

ENGLISH = """# Cats

Cats has 12 breeds, and 26,679 photos of 2026-11-25 ([more](docs/cats.md)). Use `cat.py`. [中文](README.zh-CN.md)

[Feeding](#feeding)

## Feeding

| file | grams |
|---|---|
| kitten.h5 | 4.36 |
| `big.pb`, with 3 bowls | 99.30 at 1e-3 |

```sh
python feed.py --cats 3   # every day
```
"""
CHINESE = """# 猫

共有 12 个品种，2026-11-25 的照片 26,679 张（[更多](docs/cats.md)）。使用 `cat.py`。[English](README.md)

[喂食](#喂食)

## 喂食

| 文件 | 克 |
|---|---|
| kitten.h5 | 4.36 |
| `big.pb`，配 3 个碗 | 99.30（1e-3） |

```sh
python feed.py --cats 3   # 每天
```
"""


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blank(match: re.Match) -> str:
    """As many spaces as the match has characters, so that what follows keeps its place."""
    return " " * len(match[0])


def readme_differences(english: str, chinese: str) -> list[str]:
    return differences(english, chinese, "README.md", "README.zh-CN.md")


@pytest.mark.parametrize("english", TWINS)
def test_a_chinese_page_has_the_facts_of_its_english_page(english):
    assert differences(read(english), read(TWINS[english]), english, TWINS[english]) == []


@pytest.mark.parametrize(("english", "chinese"), TWINS.items())
def test_every_link_of_a_chinese_page_leads_somewhere(english, chinese):
    for link in links(read(chinese), chinese):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in anchors(read(path or chinese)), link


@pytest.mark.parametrize(("english", "chinese"), TWINS.items())
def test_a_chinese_page_links_to_the_chinese_page_where_there_is_one(english, chinese):
    for link in links(read(chinese), chinese):
        assert link == english or link.partition("#")[0] not in TWINS, link


@pytest.mark.parametrize("chinese", TWINS.values())
def test_a_chinese_page_uses_one_word_for_one_thing(chinese):
    text = read(chinese)
    for word, instead in OTHER_WORDS.items():
        assert not re.search(rf"(?<!别){word}", text), f"{word}: write {instead}"


def test_made_up_twins_do_not_differ():
    assert readme_differences(ENGLISH, CHINESE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("12 个", "许多", "section 'Cats', numbers: missing ['12']"),
        ("2026-11-25", "2026-11-24", "section 'Cats', numbers: missing ['2026-11-25'], added ['2026-11-24']"),
        ("26,679 张", "26,679 张，26,679 只", "section 'Cats', numbers: missing [], added ['26,679']"),
        ("使用 `cat.py`", "使用脚本", "section 'Cats', code: missing ['cat.py']"),
        ("| kitten.h5 | 4.36 |\n", "", "section 'Feeding', table 1: 4 rows, 3 in the translation"),
        ("| kitten.h5 | 4.36 |", "| kitten.h5 |", "section 'Feeding', table 1, row 2: 2 cells, 1 in the translation"),
        ("4.36", "4.37", "section 'Feeding', table 1, row 2: '4.36' became '4.37'"),
        ("kitten.h5", "小猫", "section 'Feeding', table 1, row 2: 'kitten.h5' became '小猫'"),
        ("`big.pb`", "大", "section 'Feeding', table 1, row 3"),
        ("## 喂食", "### 喂食", "section 'Feeding': level 2, 3 in the translation"),
        ("## 喂食", "喂食", "2 headings, 1 in the translation"),
        ("--cats 3", "--cats 4", "commands: missing ['python feed.py --cats 3']"),
        ("```sh", "```bash", "commands: another order or other blocks"),
        ("（[更多](docs/cats.md)）", "", "links: missing ['docs/cats.md']"),
        ("[喂食](#喂食)", "喂食", "1 links inside the page, 0 in the translation"),
    ],
)
def test_a_fact_that_is_lost_or_changed_is_named(old, new, expected):
    assert old in CHINESE

    found = readme_differences(ENGLISH, CHINESE.replace(old, new))

    assert any(line.startswith(expected) for line in found), found


def test_a_chinese_page_may_link_to_the_chinese_page():
    assert readme_differences(ENGLISH, CHINESE.replace("docs/cats.md", "docs/zh/cats.md")) == []


def test_no_table_row_of_the_chinese_readme_can_be_deleted_unnoticed():
    chinese = read("README.zh-CN.md")
    rows = [line for line in FENCE.sub("", chinese).splitlines() if line.startswith("|")]

    assert len(rows) > 20
    for row in rows:
        assert readme_differences(read("README.md"), chinese.replace(row + "\n", "", 1)), row


def test_no_number_of_the_chinese_readme_can_be_deleted_unnoticed():
    chinese = read("README.zh-CN.md")
    prose = CODE_SPAN.sub(blank, FENCE.sub(blank, chinese))
    spans = [match.span() for match in NUMBER.finditer(prose)]

    assert len(spans) > 70
    for start, end in spans:
        assert readme_differences(read("README.md"), chinese[:start] + chinese[end:]), chinese[start - 20 : end + 20]
